"""Frozen lower layers are read once for equal inputs, and no number differs in any bit."""

from typing import Any

import pytest
import torch
from torch import nn

from prl.config import LoRA
from prl.models.adapters import add_adapters, using_adapters, without_adapters
from prl.models.critic import Critic
from prl.models.dropout import disable_dropout
from prl.models.frozen_layers import FrozenLayers, frozen_layers
from prl.models.loading import add_lora
from prl.models.logprobs import response_hidden
from tests.helpers.tiny import tiny_model

UPPER = LoRA(rank=2, target_modules=r".*\.(2|3)\..*(q_proj|v_proj|c_attn|up_proj)")
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "scaled embeddings, windows by turns": {
        **{"model_type": "gemma2", "head_dim": 8, "sliding_window": 4, "attn_implementation": "eager"},
        **{"query_pre_attn_scalar": 8},
    },
    "positions in the embeddings": {"model_type": "gpt2", "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 64},
}
IDS = torch.arange(5, 27).view(2, 11)
MASK = torch.tensor([[False] * 3 + [True] * 8, [True] * 11])


def adapted(name: str = "llama", lora: LoRA = UPPER, **fields: Any) -> Any:
    """Make a model of four layers with random adapters on the upper two, of the policy and of a critic."""
    plain = tiny_model(**{"num_hidden_layers": 4, **MODELS[name], **fields})
    disable_dropout(plain)
    model = add_lora(plain, lora)
    add_adapters(model, "critic")
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model.train()


def calls(model: Any) -> list[int]:
    """Count the calls of each layer's norm before the attention."""
    _, layers = next((owner, child) for owner in model.modules() for child in owner.children() if is_stack(child))
    counts = [0] * len(layers)

    def count(number: int) -> Any:
        return lambda *_: counts.__setitem__(number, counts[number] + 1)

    for number, layer in enumerate(layers):
        next(layer.children()).register_forward_pre_hook(count(number))
    return counts


def is_stack(module: Any) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) == 4


def three_roles(model: Any, ids: torch.Tensor = IDS) -> list[torch.Tensor]:
    """Hidden states of the reference, the policy and the critic; gradients of the last two."""
    with without_adapters(model), torch.no_grad():
        reference = response_hidden(model, ids, MASK, 5)
    policy = response_hidden(model, ids, MASK, 5)
    with using_adapters(model, "critic"):
        critic = response_hidden(model, ids, MASK, 5)
    model.zero_grad()
    (policy.square().mean() + critic.sin().mean()).backward()
    gradients = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    return [reference, policy.detach(), critic.detach(), *gradients]


@pytest.mark.parametrize("name", MODELS)
def test_all_roles_give_the_bits_of_whole_passes_and_read_lower_layers_once(name: str) -> None:
    model = adapted(name)
    expected = three_roles(model)
    frozen, counts = FrozenLayers(model), calls(model)
    assert len(frozen) == 2
    with frozen.once():
        first = three_roles(model)
        assert counts == [2, 2, 6, 6]  # the first pass is made four times: whole, keeping, reusing, and as a result
        counts[:] = [0] * 4
        second = three_roles(model)
    assert counts == [0, 0, 3, 3]
    assert len(expected) > 6
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(expected[1], expected[2])
    for found in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert frozen.kept_bytes == frozen.bytes_of(IDS.numel()) == IDS.numel() * 16 * 4
    frozen.forget()
    assert frozen.kept_bytes == 0


def test_other_rows_and_other_padding_are_other_inputs() -> None:
    model = adapted()
    others = [(IDS.flip(0), MASK), (IDS, torch.ones_like(MASK)), (IDS[:, :7], MASK[:, :7])]
    expected = [response_hidden(model, ids, mask, 2) for ids, mask in others]
    frozen = FrozenLayers(model)
    with frozen.once():
        three_roles(model)
        found = [response_hidden(model, ids, mask, 2) for ids, mask in others]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_outside_of_the_block_and_with_a_cache_of_keys_the_whole_model_is_read() -> None:
    model = adapted()
    frozen, counts = FrozenLayers(model), calls(model)
    with frozen.once():
        three_roles(model)
    counts[:] = [0] * 4
    three_roles(model)
    assert counts == [3] * 4
    assert not any("forward" in vars(module) for module in model.modules())
    with frozen.once(), torch.no_grad():
        for _ in range(2):
            cached = model(input_ids=IDS, attention_mask=MASK.long(), use_cache=True)
            assert cached.past_key_values.get_seq_length() == IDS.shape[1]
    assert counts == [5] * 4


def test_tensors_inside_of_an_argument_tell_inputs_apart_and_what_learns_is_not_kept() -> None:
    model = adapted()
    owner, _ = frozen_layers(model)
    ids, blocks = IDS[:1], (torch.arange(3), None, torch.ones(2, 2, dtype=torch.bool))
    others = (torch.arange(3), None, torch.zeros(2, 2, dtype=torch.bool))
    frozen, states = FrozenLayers(model), IDS.numel() // 2 * 16 * 4
    with frozen.once(), torch.no_grad():
        for given, kept in ((blocks, 1), (blocks, 1), (others, 2), ([1], 2), (torch.ones(1, requires_grad=True), 2)):
            owner(input_ids=ids, told=given)
            assert frozen.kept_bytes == kept * states


def test_a_backbone_with_adapters_is_read_like_a_policy() -> None:
    from transformers import AutoModel

    backbone = add_lora(tiny_model(auto_class=AutoModel, num_hidden_layers=4), UPPER)
    critic = Critic(backbone)
    nn.init.normal_(critic.head.weight)
    frozen, counts = FrozenLayers(critic.backbone), calls(backbone)
    expected = critic(IDS, MASK, 5)
    with frozen.once():
        found = [critic(IDS, MASK, 5) for _ in range(2)]
    assert len(frozen) == 2
    assert counts == [3, 3, 6, 6]
    assert all(torch.equal(each, expected) for each in found)


def test_gradient_checkpointing_computes_upper_layers_again_and_lower_ones_once() -> None:
    model = adapted(initializer_range=0.1)
    expected = three_roles(model)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    frozen = FrozenLayers(model)
    with frozen.once():
        policy = response_hidden(model, IDS, MASK, 5)
        again = response_hidden(model, IDS, MASK, 5)
        counts = calls(model)
    again.square().mean().backward()  # behind the block, as in an update
    assert torch.equal(policy, expected[1])
    assert counts == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("learning", "expected"),
    [("layers.1.mlp", 1), ("layers.0.", 0), ("embed_tokens", 0), ("lm_head", 2), ("norm.weight", 0)],
)
def test_nothing_that_learns_lies_below(learning: str, expected: int) -> None:
    model = adapted()
    for name, parameter in model.named_parameters():
        if learning in name and "lora" not in name and "layernorm" not in name:
            parameter.requires_grad_(True)
    assert len(frozen_layers(model)[1]) == expected


def test_a_head_that_is_tied_to_the_embeddings_does_not_learn_alone() -> None:
    model = adapted(tie_word_embeddings=True)
    model.get_output_embeddings().weight.requires_grad_(True)
    assert len(FrozenLayers(model)) == 0


def test_a_model_whose_layers_all_learn_is_left_alone() -> None:
    model = tiny_model()
    frozen = FrozenLayers(model)
    with frozen.once():
        assert not any("forward" in vars(module) for module in model.modules())
    assert len(frozen) == 0


class ReadsBelow(nn.Module):
    """Wraps a layer and adds what the first layer gave."""

    def __init__(self, layer: Any, first: list[torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.first = layer, first

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.layer(*args, **kwargs) + self.first[-1]


def test_a_model_that_reads_other_layers_too_says_so_once_and_is_read_whole(caplog: pytest.LogCaptureFixture) -> None:
    model, first = adapted(), list[torch.Tensor]()
    owner, _ = frozen_layers(model)
    owner.layers[0].register_forward_hook(lambda _, __, output: first.append(output))
    owner.layers[3] = ReadsBelow(owner.layers[3], first)
    expected = three_roles(model)
    frozen = FrozenLayers(model)
    with frozen.once():
        found = [three_roles(model) for _ in range(2)]
    assert len(frozen) == 0
    assert caplog.text.count("reads its frozen layers in every pass") == 1
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, expected, strict=True))


def test_a_model_that_changes_kept_states_in_place_is_read_whole(caplog: pytest.LogCaptureFixture) -> None:
    model = adapted()
    owner, _ = frozen_layers(model)
    owner.layers[2].register_forward_pre_hook(lambda _, inputs: (inputs[0].mul_(1.5),))
    with torch.no_grad():
        expected = response_hidden(model, IDS, MASK, 5)
        with FrozenLayers(model).once():
            found = [response_hidden(model, IDS, MASK, 5) for _ in range(2)]
    assert "hidden states differ" in caplog.text
    assert all(torch.equal(each, expected) for each in found)
