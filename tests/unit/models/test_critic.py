import pytest
import torch
from transformers import AutoModel

from prl.config import CriticSettings, LoRA, ModelSource
from prl.models.actor_critic import evaluate
from prl.models.adapters import own_parameters, using_adapters
from prl.models.critic import AdapterCritic, Critic, ValueHead, check_critic, critic_parameters, explained_variance
from prl.models.loading import add_lora
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.records import make_rollout, ragged_mask
from tests.helpers.tiny import tiny_model

IDS = torch.arange(5, 16).repeat(2, 1)
ONES = torch.ones_like(IDS, dtype=torch.bool)


def filled(head: ValueHead) -> ValueHead:
    torch.nn.init.normal_(head.weight)
    torch.nn.init.constant_(head.bias, 0.5)
    return head


def make_critic() -> Critic:
    critic = Critic(tiny_model(3, AutoModel)).eval()
    filled(critic.head)
    return critic


def test_an_untrained_critic_says_zero() -> None:
    values = Critic(tiny_model(3, AutoModel))(IDS, ONES, 4)
    assert torch.equal(values, torch.zeros(2, 4))
    assert values.dtype == torch.float32


@torch.no_grad()
def test_behind_the_end_of_a_response_there_is_no_value() -> None:
    rollout = make_rollout(ragged_mask([2, 4]))
    _, values, _ = evaluate(tiny_model(0), make_critic(), rollout, temperature=1.0)
    assert torch.equal(values == 0, ~rollout.response_mask)


@torch.no_grad()
def test_the_value_of_a_token_is_that_of_the_state_before_it() -> None:
    critic = make_critic()
    values = critic(IDS, ONES, 4)
    for place in range(4):
        state = IDS[:, : 7 + place]  # 7 prompt tokens, then the response up to but not including `place`
        expected = critic.head(critic.backbone(state).last_hidden_state[:, -1])
        assert_same_numbers(values[:, place], expected)


@torch.no_grad()
def test_the_value_of_a_token_does_not_depend_on_it_or_on_later_ones() -> None:
    critic, changed = make_critic(), IDS.clone()
    changed[:, 9] = 60  # the third of four response tokens
    before, after = critic(IDS, ONES, 4), critic(changed, ONES, 4)
    assert_same_numbers(after[:, :3], before[:, :3], 1e-6)
    assert (after[:, 3] - before[:, 3]).abs().min() > 1e-3


@torch.no_grad()
def test_values_do_not_depend_on_left_padding() -> None:
    critic = make_critic()
    padded = torch.nn.functional.pad(IDS, (3, 0), value=77)
    mask = torch.nn.functional.pad(ONES, (3, 0), value=False)
    assert_same_numbers(critic(padded, mask, 4), critic(IDS, ONES, 4))


def test_gradients_reach_the_head_and_the_backbone() -> None:
    critic = make_critic()
    critic(IDS, ONES, 4).sum().backward()
    assert critic.head.weight.grad.abs().sum() > 0
    assert critic.backbone.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_a_half_precision_backbone_gives_float32_values() -> None:
    critic = make_critic().to(torch.bfloat16)
    assert critic(IDS, ONES, 4).dtype == torch.float32


def test_explained_variance() -> None:
    mask = ragged_mask([3, 1, 2])
    returns = torch.randn(3, 3)
    assert explained_variance(returns, returns, mask).item() == 1.0
    assert explained_variance(returns + 7, returns, mask).item() == pytest.approx(
        1.0, abs=1e-6
    )  # an offset is no noise
    assert explained_variance(torch.zeros(3, 3), returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0, abs=1e-5)
    assert explained_variance(returns / 2, returns, mask).item() == pytest.approx(0.75, abs=1e-6)
    assert explained_variance(returns, torch.ones(3, 3), mask).item() == 0.0  # nothing to explain


# ---- adapters of its own on the policy's base model


def adapted_policy(seed: int = 3):
    policy = add_lora(tiny_model(seed), LoRA(rank=4))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # new adapters do nothing
    return policy


def test_a_critic_of_adapters_is_a_critic_with_adapters() -> None:
    """The same values as a critic that has the base model for itself, with the same adapters and head."""
    policy = adapted_policy()
    critic = AdapterCritic(policy)
    filled(critic.head)
    torch.manual_seed(0)
    for parameter in critic_parameters(critic)[2:]:
        torch.nn.init.normal_(parameter, std=0.1)
    base = add_lora(tiny_model(3), LoRA(rank=4))
    state = {k.replace(".critic.", ".default."): v for k, v in policy.state_dict().items() if ".default." not in k}
    base.load_state_dict(state)
    whole = Critic(base.base_model.model.model)
    whole.head = critic.head
    assert_same_numbers(critic(IDS, ONES, 4), whole(IDS, ONES, 4), 1e-6)


def test_policy_and_critic_of_one_base_model_leave_each_other_alone() -> None:
    policy = adapted_policy()
    before = policy(IDS).logits.detach()
    own = own_parameters(policy)
    critic = AdapterCritic(policy)
    filled(critic.head)
    assert [name for name, _ in own_parameters(policy)] == [name for name, _ in own]
    assert torch.equal(policy(IDS).logits, before)
    critic(IDS, ONES, 4).sum().backward()
    assert all(parameter.grad is None for _, parameter in own)
    gradients = [parameter.grad for parameter in critic_parameters(critic)]
    assert sum(each is not None and bool(each.abs().sum() > 0) for each in gradients) > 2  # head, and the new B
    for parameter in critic_parameters(critic):
        parameter.data.add_(1.0)
    assert torch.equal(policy(IDS).logits, before)
    policy(IDS).logits.sum().backward()
    assert all(parameter.grad is not None for _, parameter in own)
    base = [p for name, p in policy.named_parameters() if "lora_" not in name]
    assert not any(parameter.requires_grad for parameter in base)


def test_the_policys_adapters_are_back_after_an_error() -> None:
    policy = adapted_policy()
    AdapterCritic(policy)
    before = policy(IDS).logits.detach()
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    with pytest.raises(KeyError), using_adapters(policy, AdapterCritic.NAME):
        raise KeyError
    assert torch.equal(policy(IDS).logits, before)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trainable


def test_settings_of_the_critic_that_contradict_each_other_are_refused() -> None:
    adapted, plain = ModelSource(path="x", lora=LoRA()), ModelSource(path="x")
    check_critic(CriticSettings("adapter"), adapted)
    with pytest.raises(ValueError, match=r"critic.model is set, but critic.kind: adapter grows on the policy"):
        check_critic(CriticSettings("adapter", model=plain), adapted)
    with pytest.raises(ValueError, match=r"critic.kind: adapter .* set policy.lora"):
        check_critic(CriticSettings("adapter"), plain)
    with pytest.raises(ValueError, match="exclude each other"):
        check_critic(CriticSettings("adapter"), ModelSource(path="x", lora=LoRA(), gradient_checkpointing=True))
