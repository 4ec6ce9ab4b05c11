import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from prl.evaluation.judge.calibration import NUM_BINS, TEMPERATURES, calibration_error, fit_temperature


def miscalibrated(temperature: float, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Log-odds that are `temperature` times the true ones, and labels drawn by the true ones."""
    generator = torch.Generator().manual_seed(seed)
    true = 1.5 * torch.randn(number, generator=generator, dtype=torch.float64)
    labels = torch.rand(number, generator=generator, dtype=torch.float64) < true.sigmoid()
    return temperature * true, labels.double()


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0, 12.0])
def test_a_known_temperature_is_recovered_within_its_interval(temperature: float) -> None:
    found = fit_temperature(*miscalibrated(temperature, 2000, seed=0))
    assert found.low < temperature < found.high
    # Of 2000 labels the slope of a logistic regression has a standard error of about 4 %.
    assert found.mean == pytest.approx(temperature, rel=0.15)
    assert found.high / found.low < 1.4


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_coverage_of_the_interval(temperature: float) -> None:
    runs = 60
    inside = 0
    for seed in range(runs):
        found = fit_temperature(*miscalibrated(temperature, 200, seed), resamples=200)
        inside += found.low <= temperature <= found.high
    # 95 %, with a standard error of 2.8 %; the percentile interval of a ratio runs a little short.
    assert inside / runs >= 0.86


def test_pairs_of_one_prompt_are_not_independent() -> None:
    logits, labels = miscalibrated(2.0, 200, seed=3)
    once = fit_temperature(logits, labels, list(range(200)))
    often = fit_temperature(logits.repeat(5), labels.repeat(5), list(range(200)) * 5)
    assert often == pytest.approx(once, rel=1e-6)
    single = fit_temperature(logits.repeat(5), labels.repeat(5))
    assert single.high - single.low < 0.6 * (often.high - often.low)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(0, 1)), min_size=1, max_size=20), st.floats(-0.7, 0.7))
@settings(max_examples=60)
def test_no_other_temperature_has_a_smaller_loss(rows: list[tuple[float, float]], away: float) -> None:
    logits, targets = torch.tensor(rows, dtype=torch.float64).T
    best = fit_temperature(logits, targets, resamples=1).mean
    other = min(max(best * math.exp(away), TEMPERATURES[0]), TEMPERATURES[1])

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits / temperature, targets))

    assert loss(best) <= loss(other) + 1e-7  # the range is halved 24 times


def test_judges_that_no_temperature_mends_stop_at_the_ends() -> None:
    margins = torch.tensor([1.0, 2.0, 0.5])
    assert fit_temperature(margins, torch.ones(3)).mean == pytest.approx(TEMPERATURES[0], rel=1e-6)
    assert fit_temperature(margins, torch.zeros(3)).mean == pytest.approx(TEMPERATURES[1], rel=1e-6)


def test_without_an_opinion_there_is_nothing_to_scale() -> None:
    assert fit_temperature(torch.zeros(4), torch.tensor([1.0, 0.0, 1.0, 1.0])) == (1.0, 1.0, 1.0)


def test_dividing_by_the_fitted_temperature_calibrates() -> None:
    logits, labels = miscalibrated(5.0, 20_000, seed=1)
    fitted = fit_temperature(logits, labels, resamples=20).mean
    before = calibration_error(logits.sigmoid(), labels)
    after = calibration_error((logits / fitted).sigmoid(), labels)
    assert before > 0.15
    assert after < 0.02  # 15 bins of about 2700 readings: a standard error of 1 % each


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: 0.9 and 0.1 stand alone in theirs, each with two pairs of which one came true.
    prob = torch.tensor([0.9, 0.9], dtype=torch.float64)
    assert calibration_error(prob, torch.tensor([1.0, 0.0])) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(prob, torch.tensor([1.0, 1.0])) == pytest.approx(0.1, abs=1e-6)


def test_a_soft_label_is_not_hardened() -> None:
    soft = torch.full((5,), 0.7, dtype=torch.float64)
    assert calibration_error(soft, soft) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(torch.full((5,), 0.9, dtype=torch.float64), soft) == pytest.approx(0.2, abs=1e-12)
    # Ten labels of 0.7 say what seven of 1 and three of 0 say.
    drawn = torch.tensor([1.0] * 7 + [0.0] * 3, dtype=torch.float64)
    assert calibration_error(soft.repeat(2), drawn) == pytest.approx(0.0, abs=1e-12)


def test_hard_labels_are_counted_as_torchmetrics_counts_them() -> None:
    prob, targets = torch.rand(200, dtype=torch.float64), (torch.rand(200) < 0.6).double()
    both, happened = torch.cat([prob, 1 - prob]), torch.cat([targets, 1 - targets]).long()
    expected = binary_calibration_error(both, happened, n_bins=NUM_BINS)
    assert calibration_error(prob, targets) == pytest.approx(float(expected), abs=1e-6)
