"""The baselines of PAR (2502.18770) that read references, or bound the reward, by the formulas of its authors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from prl.rewards.shapers.base import RewardShaper
from prl.rewards.shapers.ceiling import Ceiling
from prl.rewards.shapers.centred import CentredPolynomial, CentredTanh, ShiftedSigmoid
from prl.rewards.shapers.log_sigmoid_centred import LogSigmoidCentred
from prl.rewards.shapers.par import PAR
from prl.rewards.shapers.verdicts import LogOdds
from prl.types import Scores
from prl.verdict import Verdict
from tests.helpers.records import make_rollout, ragged_mask

REWARD, REFERENCES = 1.5, [0.5, 1.0, -0.2]


def shaped(shaper: RewardShaper, *cases: tuple[float, list[float]]) -> list[float]:
    margins = torch.tensor([reward - each for reward, some in cases for each in some], dtype=torch.float64)
    rows = torch.tensor([row for row, (_, some) in enumerate(cases) for _ in some], dtype=torch.long)
    scores = Scores(torch.tensor([reward for reward, _ in cases]), Verdict(margins, -margins), rows)
    return shaper(scores, make_rollout(ragged_mask([1] * len(cases)))).rewards.tolist()


@pytest.mark.parametrize(
    ("shaper", "expected"),
    [
        (LogSigmoidCentred(), -0.496401),
        (ShiftedSigmoid(), 0.136409),
        (ShiftedSigmoid(0.0), 0.733018),
        (LogOdds(), 1.066667),  # centred
        (CentredTanh(), (0.761594 + 0.462117 + 0.935409) / 3),  # tanh of 1, 0.5 and 1.7
    ],
)
def test_figures(shaper: RewardShaper, expected: float) -> None:
    assert shaped(shaper, (REWARD, REFERENCES)) == [pytest.approx(expected, abs=1e-6)]


def test_a_sigmoid_without_a_shift_is_par() -> None:
    assert shaped(ShiftedSigmoid(0.0), (REWARD, REFERENCES)) == shaped(PAR(), (REWARD, REFERENCES))


def test_the_percentile_of_the_references() -> None:
    # r_ref85 of the same references is 1.058076: log sigma(0) there.
    assert shaped(LogSigmoidCentred(), (1.058076, REFERENCES)) == [pytest.approx(-np.log(2), abs=1e-6)]
    # one reference has no deviation, and the median of two is their mean
    assert shaped(LogSigmoidCentred(), (0.7, [0.7])) == [pytest.approx(-np.log(2), abs=1e-5)]
    assert shaped(LogSigmoidCentred(0.5), (3.0, [1.0, 5.0])) == [pytest.approx(-np.log(2), abs=1e-9)]


def test_the_polynomial_is_the_least_squares_fit_of_degree_five() -> None:
    points = np.linspace(-5, 5, 100)
    fit = np.polynomial.Polynomial.fit(points, 1 / (1 + np.exp(-points)), 5, domain=[-5, 5])
    inside = [-4.9, -1.3, 0.0, 0.4, 2.0, 4.99]
    cases = [(each, [0.0]) for each in inside]
    assert shaped(CentredPolynomial(), *cases) == pytest.approx([float(fit(each)) for each in inside], abs=1e-9)
    assert shaped(CentredPolynomial(), (-5.0, [0.0]), (-80.0, [0.0]), (5.0, [0.0]), (80.0, [0.0])) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "shaper",
    [LogSigmoidCentred(), ShiftedSigmoid(), CentredTanh(), CentredPolynomial()],
    ids=lambda s: type(s).__name__,
)
def test_only_differences_from_the_references_count_and_a_failed_one_is_left_out(shaper: RewardShaper) -> None:
    assert shaper.needs_anchors
    plain = shaped(shaper, (REWARD, REFERENCES), (-0.3, [0.1, 0.4]))
    assert shaped(shaper, (REWARD + 7, [each + 7 for each in REFERENCES]), (-0.3, [0.1, 0.4])) == pytest.approx(plain)
    lost, none = shaped(shaper, (REWARD, [*REFERENCES, torch.nan]), (1.0, [torch.nan, torch.nan]))
    assert lost == pytest.approx(plain[0], abs=1e-12)
    assert none != none
    with pytest.raises(ValueError, match=f"{type(shaper).__name__} reads comparisons with anchors"):
        shaper(Scores(torch.zeros(1)), make_rollout(ragged_mask([1])))


def test_the_ceiling_is_an_upper_bound_alone() -> None:
    scores = Scores(torch.tensor([-9.0, 0.5, 2.0, torch.nan, torch.inf]))
    found = Ceiling(1.5)(scores, make_rollout(ragged_mask([1] * 5))).rewards
    assert found[[0, 1, 2, 4]].tolist() == [-9.0, 0.5, 1.5, 1.5]
    assert found[3].isnan()
    found = Ceiling(1.5, floor=-2.0)(scores, make_rollout(ragged_mask([1] * 5))).rewards
    assert found[[0, 1, 2, 4]].tolist() == [-2.0, 0.5, 1.5, 1.5]
    assert found[3].isnan()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Ceiling(1.0, floor=1.5),
            "Ceiling.floor is 1.5; expected null, or a finite number up to the limit, 1.0",
        ),
        (lambda: Ceiling(1.0, floor=float("nan")), "Ceiling.floor is nan"),
        (lambda: Ceiling(float("nan")), "Ceiling.limit is nan; expected a finite number"),
        (lambda: ShiftedSigmoid(float("inf")), "ShiftedSigmoid.shift is inf; expected a finite number"),
        (lambda: LogSigmoidCentred(1.0), r"LogSigmoidCentred.percentile is 1.0; expected a number in \(0, 1\)"),
        (lambda: LogSigmoidCentred(epsilon=-1.0), "LogSigmoidCentred.epsilon is -1.0; expected 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], RewardShaper], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
