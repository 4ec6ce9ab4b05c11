import pytest
import torch
from transformers import AutoModel

from prl.models.critic import Critic, ValueHead, explained_variance
from tests.helpers.records import ragged_mask
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
def test_the_value_of_a_token_is_that_of_the_state_before_it() -> None:
    critic = make_critic()
    values = critic(IDS, ONES, 4)
    for place in range(4):
        state = IDS[:, : 7 + place]  # 7 prompt tokens, then the response up to but not including `place`
        expected = critic.head(critic.backbone(state).last_hidden_state[:, -1])
        torch.testing.assert_close(values[:, place], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_value_of_a_token_does_not_depend_on_it_or_on_later_ones() -> None:
    critic, changed = make_critic(), IDS.clone()
    changed[:, 9] = 60  # the third of four response tokens
    before, after = critic(IDS, ONES, 4), critic(changed, ONES, 4)
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-6, rtol=0)
    assert (after[:, 3] - before[:, 3]).abs().min() > 1e-3


@torch.no_grad()
def test_values_do_not_depend_on_left_padding() -> None:
    critic = make_critic()
    padded = torch.nn.functional.pad(IDS, (3, 0), value=77)
    mask = torch.nn.functional.pad(ONES, (3, 0), value=False)
    torch.testing.assert_close(critic(padded, mask, 4), critic(IDS, ONES, 4), atol=1e-5, rtol=0)


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
