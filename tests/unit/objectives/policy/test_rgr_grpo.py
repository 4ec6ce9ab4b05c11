"""The objective of RGR-GRPO against figures that did not come from this repository."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.objectives.policy import PPO, RGRGRPO
from prl.objectives.policy.clipped import clipped_policy_loss
from prl.types import Experience
from tests.helpers.policy_batches import loss_of, of_prompts

PROBABILITIES = st.floats(1e-6, 1.0)
LENGTHS, ADVANTAGES = [3, 1, 4, 2], [0.5, -1.5, 0.25, 1.0]


def one_token(p: float, old: float, guided: bool, advantage: float = 1.0, **settings: Any) -> tuple[float, float]:
    """Compute J of a response with a single token, and its derivative by the log-probability."""
    found = replace(
        of_prompts([0], [1], advantages=[advantage]),
        old_logprobs=torch.tensor([[math.log(old)]], dtype=torch.float64),
    )
    found = replace(found, rollout=replace(found.rollout, guided=torch.tensor([guided])))
    logprobs = torch.tensor([[math.log(p)]], dtype=torch.float64, requires_grad=True)
    loss = loss_of(RGRGRPO(**settings), found, logprobs).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return -loss.item(), -gradient.item()


def responses(guided: list[bool] | None = None, seed: int = 0) -> tuple[Experience, Tensor]:
    """Two prompts, with log-probabilities near those of the policy that sampled."""
    found = of_prompts([0, 0, 1, 1], LENGTHS, advantages=ADVANTAGES)
    mask = found.rollout.response_mask
    generator = torch.Generator().manual_seed(seed)
    old, step = (-torch.rand(mask.shape, generator=generator, dtype=torch.float64) * mask for _ in range(2))
    mark = None if guided is None else torch.tensor(guided)
    found = replace(found, old_logprobs=old, rollout=replace(found.rollout, guided=mark))
    return found, (old - 0.1 * step).requires_grad_()


@pytest.mark.parametrize("denominator", ["policy", "old"])
@pytest.mark.parametrize(("p", "expected"), [(0.05, 0.333333), (0.9, 0.9)])
def test_the_shaper_of_the_paper(p: float, expected: float, denominator: Any) -> None:
    assert one_token(p, p, True, denominator=denominator)[0] == pytest.approx(expected, abs=1e-6)


@given(p=PROBABILITIES, old=PROBABILITIES, gamma=st.floats(0.01, 0.99))
def test_the_gradients_of_both_denominators(p: float, old: float, gamma: float) -> None:
    value, slope = one_token(p, old, True, gamma=gamma)
    assert slope == pytest.approx(value * (1 - value), rel=1e-6, abs=1e-12)
    assert slope == pytest.approx(gamma * p / (p + gamma) ** 2, rel=1e-6)
    assert slope <= 0.25 + 1e-12
    value, slope = one_token(p, old, True, gamma=gamma, denominator="old")
    assert slope == pytest.approx(value) == pytest.approx(p / (old + gamma))


def test_a_step_is_largest_where_the_probability_is_gamma() -> None:
    slopes = {p: one_token(p, 0.5, True, gamma=0.1)[1] for p in (0.01, 0.05, 0.1, 0.2, 0.9)}
    assert max(slopes, key=lambda p: slopes[p]) == 0.1
    assert slopes[0.1] == pytest.approx(0.25)
    old = [one_token(p, p, True, gamma=0.1, denominator="old")[1] for p in slopes]
    assert old == sorted(old)


def test_a_small_gamma_gives_the_ratio_or_nothing() -> None:
    ratio = one_token(0.3, 0.2, False)
    assert one_token(0.3, 0.2, True, gamma=1e-9, denominator="old") == pytest.approx(ratio)
    assert one_token(0.3, 0.2, True, gamma=1e-9) == pytest.approx((1.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("guided", [None, [False] * 4])
@pytest.mark.parametrize("denominator", ["policy", "old"])
def test_without_guidance_it_is_the_unclipped_surrogate_to_the_bit(guided: Any, denominator: Any) -> None:
    experience, logprobs = responses(guided)
    found = loss_of(RGRGRPO(denominator=denominator), experience, logprobs).loss
    # The steps are within PPO's clip, where the clipped surrogate is the unclipped one.
    expected = loss_of(PPO(clip_range=0.5), experience, logprobs).loss
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(loss, logprobs)[0] for loss in (found, expected)]
    assert torch.equal(*gradients)


def test_nothing_is_clipped() -> None:
    assert one_token(0.9, 0.1, False)[0] == pytest.approx(9)
    assert one_token(0.9, 0.1, False, advantage=-2.0) == pytest.approx((-18, -18))


def test_guided_responses_change_their_own_tokens_alone() -> None:
    experience, logprobs = responses([False, True, False, True])
    plain, _ = responses()
    found, without = (loss_of(RGRGRPO(), each, logprobs) for each in (experience, plain))
    gradients = [torch.autograd.grad(each.loss, logprobs)[0] for each in (found, without)]
    assert torch.equal(gradients[0][[0, 2]], gradients[1][[0, 2]])
    weight = 1 / (4 * torch.tensor(LENGTHS, dtype=torch.float64)[:, None])  # responses weigh alike
    p = logprobs.detach().exp()
    advantages = experience.advantages
    expected = -(advantages * weight * 0.1 * p / (p + 0.1) ** 2) * experience.rollout.response_mask
    torch.testing.assert_close(gradients[0][[1, 3]], expected[[1, 3]])
    assert found.stats["guided_frac"].item() == pytest.approx(0.5)
    assert without.stats["guided_frac"].item() == 0


def test_unguided_tokens_are_those_of_a_formula_for_ppo() -> None:
    experience, logprobs = responses([False] * 3 + [True])
    per_token = clipped_policy_loss(logprobs, experience.old_logprobs, experience.advantages, clip_range=0.99)
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)[:, None]
    rest = (per_token / lengths)[:3].sum() / 4
    f = (logprobs.exp() / (logprobs.exp() + 0.3))[3, : LENGTHS[3]]
    expected = rest - ADVANTAGES[3] * f.mean() / 4
    torch.testing.assert_close(loss_of(RGRGRPO(gamma=0.3), experience, logprobs).loss, expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.1, float("nan")])
def test_a_gamma_that_is_no_probability_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="RGRGRPO.gamma is .*; expected a number in"):
        RGRGRPO(gamma=gamma)


def test_another_denominator_is_refused() -> None:
    with pytest.raises(ValueError, match="RGRGRPO.denominator is 'reference'; expected policy or old"):
        RGRGRPO(denominator="reference")  # type: ignore[arg-type]
