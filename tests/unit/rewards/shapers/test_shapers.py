from dataclasses import replace

import pytest
import torch

from prl.rewards.shapers.base import RewardShaper
from prl.rewards.shapers.missing_eos import MissingEOS
from prl.rewards.shapers.overlong import Overlong
from prl.rewards.shapers.verdicts import CenteredProbability, LogOdds, MeanProbability
from prl.types import Rollout, Scores
from prl.verdict import Verdict
from tests.helpers.records import make_rollout, ragged_mask

# margins 2 and -1: z = 1.5; margins 30 and -30: z = 30; margins 1 and 1: z = 0
VERDICT = Verdict(torch.tensor([2.0, 30.0, 1.0]), torch.tensor([-1.0, -30.0, 1.0]))


def rewards(shaper: RewardShaper, verdict: Verdict = VERDICT) -> list[float]:
    rows = torch.arange(len(verdict))
    return shaper(
        Scores(verdict.win_prob, verdict, rows), make_rollout(ragged_mask([1] * len(verdict)))
    ).rewards.tolist()


@pytest.mark.parametrize(
    ("shaper", "found"),
    [
        (MeanProbability(), [(0.8807971 + 1 - 0.2689414) / 2, 1.0, 0.5]),
        (CenteredProbability(), [0.3175745, 0.5, 0.0]),
        (LogOdds(), [1.5, 5.0, 0.0]),
        (LogOdds(clip=100.0), [1.5, 30.0, 0.0]),
    ],
)
def test_readings_of_a_verdict(shaper: RewardShaper, found: list[float]) -> None:
    assert rewards(shaper) == pytest.approx(found, abs=2e-7)


def test_log_odds_are_clipped_on_both_sides() -> None:
    swapped = Verdict(VERDICT.margin_ba, VERDICT.margin_ab)
    assert rewards(LogOdds(clip=1.0), swapped) == [-1.0, -1.0, 0.0]


@pytest.mark.parametrize("shaper", [MeanProbability(), CenteredProbability(), LogOdds()])
def test_a_reading_of_a_verdict_needs_one(shaper: RewardShaper) -> None:
    assert shaper.needs_anchors
    with pytest.raises(ValueError, match=f"shaping: {type(shaper).__name__} reads comparisons with anchors"):
        shaper(Scores(torch.zeros(1)), make_rollout(ragged_mask([1])))


@pytest.mark.parametrize(
    ("shaper", "found"),
    [(MissingEOS(), [0.5, -0.75]), (MissingEOS(-2.0), [0.5, 2.25]), (MissingEOS(-2.0, replace=True), [0.5, -2.0])],
)
def test_missing_eos(shaper: RewardShaper, found: list[float]) -> None:
    rollout = make_rollout(ragged_mask([1, 1]))
    rollout.finished[:] = torch.tensor([True, False])
    assert shaper(Scores(torch.tensor([0.5, 0.25])), rollout).rewards.tolist() == found


def test_a_response_near_the_limit_loses_more_and_more() -> None:
    rollout: Rollout = make_rollout(ragged_mask([3, 8, 9, 11, 12]))
    found = Overlong(2.0, buffer=4)(Scores(torch.zeros(5)), rollout).rewards
    assert found.tolist() == [0.0, 0.0, -0.5, -1.5, -2.0]


def test_the_limit_is_that_of_all_tokens_of_a_response_whoever_made_them() -> None:
    read = ragged_mask([3, 10, 12])
    rollout = replace(make_rollout(read & (torch.arange(12) > 1)), context_mask=read)
    assert Overlong(2.0, buffer=4)(Scores(torch.zeros(3)), rollout).rewards.tolist() == [0.0, -1.0, -2.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogOdds(0.0), "LogOdds.clip is 0.0; expected a positive number"),
        (lambda: Overlong(0.0), "Overlong.penalty is 0.0; expected a positive number"),
        (lambda: Overlong(buffer=0), "Overlong.buffer is 0; expected at least 1"),
        (lambda: MissingEOS(float("nan")), "MissingEOS.value is nan; expected a finite number"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
