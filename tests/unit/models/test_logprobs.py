"""Log-probabilities a slice of tokens at a time: the numbers of whole logits, without whole logits."""

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prl.models import logprobs as head
from prl.models.critic import ValueHead
from prl.models.logprobs import entropy, response_hidden, response_logprobs
from prl.models.policy import response_logits, token_logprobs
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.records import ragged_mask
from tests.helpers.tiny import tiny_model

PROMPT, WIDTH = 5, 6
MASK = ragged_mask([6, 2, 4])


def inputs(seed: int = 0, vocab: int = 90) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, vocab, (3, PROMPT + WIDTH), generator=torch.Generator().manual_seed(seed))
    attention = torch.cat([torch.ones(3, PROMPT, dtype=torch.bool), MASK], 1)
    attention[1, :2] = False  # left padding
    return ids, attention, ids[:, PROMPT:], MASK


def whole(model, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    ids, attention, response, mask = inputs()
    logits = response_logits(model, ids, attention, WIDTH)
    return token_logprobs(logits, response, mask, temperature), entropy(logits / temperature).masked_fill(~mask, 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("slices", [1, 4])
def test_values_and_gradients_are_those_of_whole_logits(family, slices, monkeypatch) -> None:
    model = tiny_model(4, model_type=family, head_dim=8, final_logit_softcapping=2.0)
    vocab = model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", vocab * int(MASK.sum()) // slices)
    expected, entropies = whole(model, 0.7)
    (expected.sum() + 0.3 * entropies.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logprobs, found_entropies, hidden = response_logprobs(model, *inputs(), temperature=0.7, with_entropy=True)
    (logprobs.sum() + 0.3 * found_entropies.sum()).backward()
    assert_same_numbers(logprobs, expected, 1e-6)
    assert_same_numbers(found_entropies, entropies, 1e-6)
    assert hidden.shape == (3, WIDTH, 16)
    for name, parameter in model.named_parameters():
        assert_same_numbers(parameter.grad, gradients[name], 2e-5, msg=name)


def test_a_model_that_caps_its_logits_is_noticed(caplog) -> None:
    model = tiny_model(4, model_type="gemma2", head_dim=8, final_logit_softcapping=2.0)
    response_logprobs(model, *inputs())
    assert "changes the logits after its language head" in caplog.text
    caplog.clear()
    response_logprobs(tiny_model(4), *inputs())
    assert caplog.text == ""


CHANGING = {
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 30.0},
    "gemma3_text": {"head_dim": 8, "final_logit_softcapping": 30.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
}


@torch.no_grad()
@pytest.mark.parametrize("family", CHANGING)
def test_a_cap_that_small_logits_do_not_show_is_noticed(family, caplog) -> None:
    """Logits of a first batch that are near zero, as those of a new model are; later ones reach the cap."""
    model = tiny_model(4, model_type=family, **CHANGING[family])
    norm, sharp = model.model.norm, 40.0
    norm.weight.fill_(1e-3 if family != "gemma2" and family != "gemma3_text" else 1e-3 - 1)
    response_logprobs(model, *inputs())
    norm.weight.mul_(0).add_(sharp)
    expected, _ = whole(model, 1.0)
    found, _, _ = response_logprobs(model, *inputs())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert next(iter(CHANGING[family].keys() - {"head_dim"})) in caplog.text


class Capped(torch.nn.Module):
    """A model that caps its logits, of which its config says nothing."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_output_embeddings(self):
        return self.model.lm_head

    def forward(self, *args, **kwargs):
        found = self.model(*args, **kwargs)
        found.logits = 30 * torch.tanh(found.logits / 30)
        return found


@torch.no_grad()
def test_a_cap_that_no_config_names_is_found_on_large_logits(caplog) -> None:
    model = Capped(tiny_model(4))
    model.model.model.norm.weight.fill_(1e-3)
    assert (whole(model, 1.0)[0] - whole(model.model, 1.0)[0]).abs().max() < 1e-6  # these logits do not show it
    response_logprobs(model, *inputs())
    assert "for a reason that its config does not name" in caplog.text
    model.model.model.norm.weight.fill_(40)
    found, _, _ = response_logprobs(model, *inputs())
    torch.testing.assert_close(found, whole(model, 1.0)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["granite", "gemma3_text", "mixtral"])
def test_settings_that_change_nothing_are_none(family, caplog) -> None:
    model = tiny_model(4, model_type=family, head_dim=8)  # logits_scaling 1, no cap, output_router_logits
    response_logprobs(model, *inputs())
    assert caplog.text == ""


@torch.no_grad()
def test_hidden_states_are_those_before_each_response_token() -> None:
    model = tiny_model(4)
    ids, attention, _, _ = inputs()
    hidden = response_hidden(model, ids, attention, WIDTH)
    own = model.model(ids[:1]).last_hidden_state[:, PROMPT - 1 : -1]
    assert_same_numbers(hidden[:1], own)
    torch.testing.assert_close(ValueHead(16)(hidden).shape, torch.Size([3, WIDTH]))
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_rows_that_do_not_count_are_left_alone() -> None:
    ids, attention, response, _ = inputs()
    nothing = torch.zeros_like(MASK)
    logprobs, _, _ = response_logprobs(tiny_model(4), ids, attention, response, nothing)
    assert torch.equal(logprobs, torch.zeros(3, WIDTH))
    logprobs.sum().backward()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("training", [False, True])
def test_twice_the_vocabulary_does_not_need_twice_the_memory(training, monkeypatch) -> None:
    """The largest tensor of a pass, the head's own weights apart, stays below the limit whatever the vocabulary."""
    limit = 4000
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", limit)
    for vocab in (1000, 2000):
        model = tiny_model(
            4, vocab_size=vocab, hidden_size=2, intermediate_size=4, num_attention_heads=1, num_key_value_heads=1
        )
        if not training:
            model.requires_grad_(False)
        model.get_output_embeddings().requires_grad_(False)  # its gradient has the size of the vocabulary anyway
        model.get_input_embeddings().requires_grad_(False)
        with LargestTensor() as seen:
            logprobs, _, _ = response_logprobs(model, *inputs())
            if training:
                logprobs.sum().backward()
        gc.collect()
        assert seen.largest <= max(limit, 2 * vocab)  # the head's weights, D = 2
        assert int(MASK.sum()) * vocab > 2 * limit
