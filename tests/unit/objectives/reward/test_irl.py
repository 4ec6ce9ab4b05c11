"""Rewards from demonstrations: the figures of a pair, the optimum over all functions, and the alternation."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.objectives.reward import IRLReward, PairBatch


def pairs(chosen: Tensor, rejected: Tensor, target: float = 1.0) -> PairBatch:
    margin = (chosen - rejected)[None]
    heads = {"chosen_rewards": chosen[:, None], "rejected_rewards": rejected[:, None]}
    return PairBatch(margin, torch.ones_like(margin, dtype=torch.bool), torch.full_like(chosen, target), **heads)


@pytest.mark.parametrize(
    ("settings", "target", "expected"),
    [
        ({"beta": 0.5, "regularisation": 0.5}, 1.0, -0.04),  # 0.25 (4 + 0.64) - 1.2
        ({"beta": 0.5, "regularisation": 0.0}, 1.0, -1.2),
        ({"beta": 1.0, "regularisation": 0.0}, 1.0, -0.6),
        ({"beta": 0.5, "regularisation": 0.5}, 0.0, 2.36),
        ({"beta": 0.5, "regularisation": 0.5}, 0.5, 1.16),
    ],
)
def test_the_figures_of_a_pair(settings: dict[str, float], target: float, expected: float) -> None:
    one, other = torch.tensor([1.0]), torch.tensor([0.4])
    assert IRLReward(**settings).loss(pairs(one, other, target)).item() == pytest.approx(expected, abs=1e-6)


def test_without_regularisation_it_is_the_gap_to_the_last_bit() -> None:
    chosen, rejected = torch.randn(2, 9)
    loss = IRLReward(beta=0.3, regularisation=0.0).loss(pairs(chosen, rejected))
    assert torch.equal(loss, -(chosen / 0.3 - rejected / 0.3))


def test_a_flipped_label_is_a_swapped_pair() -> None:
    chosen, rejected = torch.randn(2, 9)
    torch.testing.assert_close(
        IRLReward().loss(pairs(chosen, rejected, 0.0)), IRLReward().loss(pairs(rejected, chosen))
    )


def expected_loss(objective: IRLReward, reward: Tensor, demonstrations: Tensor, policy: Tensor) -> Tensor:
    """Mean over all pairs of a demonstration and a sample, of a few responses with known probabilities."""
    count = len(reward)
    losses = objective.loss(pairs(reward.repeat_interleave(count), reward.repeat(count))).view(count, count)
    return (demonstrations[:, None] * policy[None, :] * losses).sum()


def best_reward(objective: IRLReward, demonstrations: Tensor, policy: Tensor) -> Tensor:
    """Solve for the minimum: the gradient of each reward depends on that reward alone, and linearly."""

    def gradient(reward: Tensor) -> Tensor:
        reward = reward.clone().requires_grad_()
        return torch.autograd.grad(expected_loss(objective, reward, demonstrations, policy), reward)[0]

    at_zero = gradient(torch.zeros_like(policy))
    found = -at_zero / (gradient(torch.ones_like(policy)) - at_zero)
    assert gradient(found).abs().max() < 1e-9
    return found


SHARES = st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4).map(
    lambda x: torch.tensor(x, dtype=torch.float64) / sum(x)
)


@given(demonstrations=SHARES, policy=SHARES, beta=st.sampled_from([0.1, 1.0]), c=st.sampled_from([0.2, 1.0]))
def test_the_best_reward_is_bounded_and_zero_where_the_policy_writes_as_the_demonstrations(
    demonstrations: Tensor, policy: Tensor, beta: float, c: float
) -> None:
    objective = IRLReward(beta, c)
    found = best_reward(objective, demonstrations, policy) / beta
    expected = (demonstrations - policy) / (c * (demonstrations + policy))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    distance = ((demonstrations - policy).square() / (demonstrations + policy)).sum()
    value = expected_loss(objective, beta * expected, demonstrations, policy)
    torch.testing.assert_close(value, -distance / (2 * c))
    assert best_reward(objective, policy, policy).abs().max() < 1e-12


@pytest.mark.parametrize(("c", "closer"), [(1.0, 2.0), (0.1, 20.0)])
def test_reward_and_policy_in_turn_approach_the_demonstrations(c: float, closer: float) -> None:
    """Each policy is the optimum of its reward with the KL to the reference; part of the way is gone in each turn."""
    beta, demonstrations = 0.5, torch.tensor([0.7, 0.2, 0.05, 0.05]).double()
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    logits = reference.log()
    for _ in range(60):
        reward = best_reward(IRLReward(beta, c), demonstrations, logits.softmax(0))
        logits = 0.9 * logits + 0.1 * (reference.log() + reward / beta)

    def distance(policy: Tensor) -> float:
        return float((demonstrations * (demonstrations / policy).log()).sum())

    assert distance(logits.softmax(0)) < distance(reference) / closer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 0.0}, "IRLReward.beta is 0.0; expected a finite number above 0"),
        ({"beta": math.inf}, "IRLReward.beta is inf"),
        ({"regularisation": -0.1}, "IRLReward.regularisation is -0.1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IRLReward(**settings)
