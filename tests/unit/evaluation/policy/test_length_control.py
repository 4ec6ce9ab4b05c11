"""The length-controlled win rate, against cases worked out by hand and the conditions that define its optimum."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.evaluation.policy.length_control import RIDGE, fit_length_effect, length_controlled_rate, scaled_difference


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rate(prob: list[float], difference: list[float], **options) -> float:
    return length_controlled_rate(prob, difference, range(len(prob)), resamples=2, **options).mean


def test_two_groups_by_hand() -> None:
    """Half the pairs longer by d with p = 0.9, half shorter by d with 0.6: theta is the mean of the two log-odds."""
    prob, difference = [0.9, 0.6] * 50, [7.0, -7.0] * 50
    assert rate(prob, difference) == pytest.approx(sigmoid((math.log(9) + math.log(1.5)) / 2), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.98), st.lists(st.integers(-300, 300), min_size=2, max_size=30))
def test_without_an_effect_of_length_it_is_the_mean(prob: float, difference: list[int]) -> None:
    assert rate([prob] * len(difference), difference) == pytest.approx(prob, abs=1e-6)


SHORTER, LONGER = (st.lists(st.integers(*ends), min_size=1, max_size=15) for ends in ((-60, -1), (1, 300)))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 3.0), SHORTER, LONGER)
def test_a_judge_of_lengths_gets_one_half(strength: float, shorter: list[int], longer: list[int]) -> None:
    """However much longer than the anchors most responses are."""
    difference = shorter + longer
    x = scaled_difference(torch.tensor(difference, dtype=torch.float64))
    assert rate(torch.sigmoid(strength * x).tolist(), difference) == pytest.approx(0.5, abs=1e-3)


def test_the_fit_satisfies_the_conditions_of_its_optimum() -> None:
    """Score equations of weighted logistic regression: residuals sum to zero, and to the ridge against x."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(200, generator=generator, dtype=torch.float64)
    x = scaled_difference(torch.randn(200, generator=generator, dtype=torch.float64) * 40 + 15)
    weights = torch.rand(3, 200, generator=generator, dtype=torch.float64)
    for (theta, gamma), weight in zip(fit_length_effect(target, x, weights), weights, strict=True):
        left = weight * (target - torch.sigmoid(theta + gamma * x))
        assert float(left.sum()) == pytest.approx(0, abs=1e-6)
        assert float((left * x).sum()) == pytest.approx(RIDGE * float(gamma), abs=1e-6)


def test_it_agrees_with_another_optimiser() -> None:
    generator = torch.Generator().manual_seed(1)
    difference = torch.randn(80, generator=generator, dtype=torch.float64) * 30
    target = torch.sigmoid(0.4 + difference / 40 + torch.randn(80, generator=generator, dtype=torch.float64))
    x = scaled_difference(difference)
    found = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = found[0] + found[1] * x
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        loss.backward()
        return loss

    optimiser.step(closure)
    assert rate(target.tolist(), difference.tolist()) == pytest.approx(float(found[0].detach().sigmoid()), abs=1e-4)


def test_verdicts_that_length_separates_without_error_are_settled() -> None:
    assert rate([1.0] * 20 + [0.0] * 20, [10.0] * 20 + [-10.0] * 20) == pytest.approx(0.5, abs=1e-6)
    assert rate([1.0] * 40, [3.0, -3.0] * 20) > 0.999


def test_weights_count_like_repetitions() -> None:
    prob, difference = [0.9, 0.3, 0.6], [5.0, -2.0, 1.0]
    x = scaled_difference(torch.tensor(difference, dtype=torch.float64))
    target = torch.tensor(prob, dtype=torch.float64)
    weighted = fit_length_effect(target, x, torch.tensor([[2.0, 1.0, 3.0]], dtype=torch.float64))
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    repeated = fit_length_effect(target[index], x[index], torch.ones(1, 6, dtype=torch.float64))
    torch.testing.assert_close(weighted, repeated)


def test_the_interval_holds_the_truth_and_widens_with_fewer_prompts() -> None:
    generator = torch.Generator().manual_seed(2)

    def interval(num: int):
        difference = torch.randn(num, generator=generator) * 20
        prob = torch.sigmoid(0.8 + torch.tanh(difference / 20) + torch.randn(num, generator=generator))
        return length_controlled_rate(prob.tolist(), difference.tolist(), range(num), resamples=200)

    wide, narrow = interval(30), interval(1000)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3
    assert wide.low < wide.mean < wide.high


def test_prompts_are_resampled_whole() -> None:
    """Ten copies of the same four prompts know no more than the four prompts."""
    prob, difference = [0.9, 0.2, 0.7, 0.5], [3.0, -8.0, 1.0, 4.0]
    once = length_controlled_rate(prob, difference, range(4), resamples=100)
    copies = length_controlled_rate(prob * 10, difference * 10, list(range(4)) * 10, resamples=100)
    assert copies == pytest.approx(once, abs=5e-3)
