# The shipped `gae` against its definition, written as slowly as possible, and against TorchRL where it is installed.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages.gae import gae, length_adaptive_lambda
from tests.helpers.records import ragged_mask


def forward_sums(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, trace_decay: list[float]) -> Tensor:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, in float64, on each row without its masked tokens."""
    advantages = torch.zeros(rewards.shape, dtype=torch.float64)
    for row in range(rewards.shape[0]):
        places = mask[row].nonzero().flatten().tolist()
        r = [float(rewards[row, place]) for place in places]
        v = [float(values[row, place]) for place in places] + [0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(places))]
        for t, place in enumerate(places):
            tail = deltas[t:]
            advantages[row, place] = sum((gamma * trace_decay[row]) ** step * delta for step, delta in enumerate(tail))
    return advantages


# |r| and |v| are at most 1, so |A| is at most 3 * 12; float32 rounds each of up to 12 additions of such numbers by
# 2e-6 at most, and by far less on average.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-6}
decays = st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]) | st.floats(0, 1)


@st.composite
def problems(draw):
    """Rewards, values and a mask with holes; whole rows may be masked and T may be 0."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(0, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    rewards, values = (torch.rand(rows, width, generator=generator) * 2 - 1 for _ in range(2))
    return rewards, values, torch.rand(rows, width, generator=generator) < density


@given(problems(), decays, decays)
def test_scalar_lambda_equals_the_definition(problem, gamma, gae_lambda) -> None:
    rewards, values, mask = problem
    expected = forward_sums(rewards, values, mask, gamma, [gae_lambda] * len(mask))
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    torch.testing.assert_close(advantages.double(), expected, **TOLERANCE)
    torch.testing.assert_close(returns.double(), (expected + values.double()) * mask, **TOLERANCE)


@given(problems(), decays, st.data())
def test_one_lambda_per_row_equals_the_definition(problem, gamma, data) -> None:
    rewards, values, mask = problem
    per_row = data.draw(st.lists(decays, min_size=len(mask), max_size=len(mask)))
    advantages, _ = gae(rewards, values, mask, gamma=gamma, gae_lambda=torch.tensor(per_row))
    torch.testing.assert_close(advantages.double(), forward_sums(rewards, values, mask, gamma, per_row), **TOLERANCE)


@given(problems(), decays, decays, decays)
def test_the_critic_may_have_its_own_lambda(problem, gamma, gae_lambda, critic_lambda) -> None:
    rewards, values, mask = problem
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda, critic_lambda=critic_lambda)
    actor, critic = (
        forward_sums(rewards, values, mask, gamma, [decay] * len(mask)) for decay in (gae_lambda, critic_lambda)
    )
    torch.testing.assert_close(advantages.double(), actor, **TOLERANCE)
    torch.testing.assert_close(returns.double(), (critic + values.double()) * mask, **TOLERANCE)


@given(problems())
def test_what_stands_in_masked_places_does_not_matter(problem) -> None:
    rewards, values, mask = problem
    poisoned = [tensor.masked_fill(~mask, float("nan")) for tensor in (rewards, values)]
    for found, expected in zip(gae(*poisoned, mask), gae(rewards, values, mask), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(found.masked_fill(mask, 0), torch.zeros_like(found))


def test_lambda_one_and_gamma_one_make_returns_the_rewards_to_go() -> None:
    rewards = torch.tensor([[0.25, 0.5, 1.0, 9.0]])
    _, returns = gae(rewards, torch.rand(1, 4), ragged_mask([3], 4), gamma=1.0, gae_lambda=1.0)
    assert returns[0].tolist() == pytest.approx([1.75, 1.5, 1.0, 0.0], abs=3e-7)


@pytest.mark.parametrize("other", [9.0, -100.0])
def test_tokens_of_an_environment_are_skipped(other: float) -> None:
    """The third token is not the policy's: what the critic says of it does not matter. Worked out by hand."""
    rewards, mask = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, True, False, True, True]])
    values = torch.tensor([[0.2, 0.3, other, 0.5, 0.6]])
    advantages, _ = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    assert advantages[mask].tolist() == pytest.approx([0.7232, 0.656, 0.48, 0.4], abs=1e-6, rel=0)
    whole = gae(rewards[mask][None], values[mask][None], torch.ones(1, 4, dtype=torch.bool), gae_lambda=0.95)
    assert torch.equal(advantages[mask], whole[0][0])


def test_the_results_are_constants() -> None:
    values = torch.rand(2, 3, requires_grad=True)
    advantages, returns = gae(torch.rand(2, 3), values, torch.ones(2, 3, dtype=torch.bool))
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    rewards, values = torch.rand(2, 40).bfloat16(), torch.rand(2, 40).bfloat16()
    mask = ragged_mask([40, 17])
    for found, expected in zip(gae(rewards, values, mask), gae(rewards.float(), values.float(), mask), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_wrong_shapes_and_masks_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"rewards \(2, 3\), values \(2, 4\), mask \(2, 3\) must share one shape \[B, T\]"
    ):
        gae(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask has dtype torch.int64, expected torch.bool"):
        gae(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.long))


def test_length_adaptive_lambda() -> None:
    lengths = torch.tensor([1, 4, 20, 2000])
    # alpha 0.05: 1 - 1 / (0.05 l) is negative below 20 tokens and 0.99 at 2000
    assert length_adaptive_lambda(lengths, 0.05).tolist() == pytest.approx([0.0, 0.0, 0.0, 0.99], abs=1e-6)
    assert length_adaptive_lambda(lengths, 1.0).tolist() == pytest.approx([0.0, 0.75, 0.95, 0.9995], abs=1e-6)
    assert length_adaptive_lambda(torch.tensor([0]), 1.0).tolist() == [0.0]
    # VAPO with alpha 0.05: the geometric weights of lambda add up to alpha times the length
    decays = length_adaptive_lambda(torch.tensor([100, 400, 1000]), 0.05)
    assert decays.tolist() == pytest.approx([0.8, 0.95, 0.98], abs=1e-6)
    assert (1 / (1 - decays)).tolist() == pytest.approx([5.0, 20.0, 50.0], rel=1e-5)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.99, 1.0), (0.9, 0.7)])
def test_torchrl_agrees(gamma, gae_lambda) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    lengths = [7, 1, 12, 4]
    mask = ragged_mask(lengths)
    rewards, values = torch.randn(4, 12), torch.randn(4, 12)
    next_values = torch.cat([values[:, 1:], torch.zeros(4, 1)], 1)
    done = torch.arange(12).expand(4, -1) == torch.tensor(lengths)[:, None] - 1
    columns = (values, next_values, rewards, done, done)
    theirs, their_returns = functional.vec_generalized_advantage_estimate(
        gamma, gae_lambda, *(column[..., None] for column in columns)
    )
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    torch.testing.assert_close(advantages, theirs[..., 0] * mask, **TOLERANCE)
    torch.testing.assert_close(returns, their_returns[..., 0] * mask, **TOLERANCE)
