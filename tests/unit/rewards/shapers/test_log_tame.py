"""LogTame against figures computed by hand."""

import math

import pytest
import torch

from prl.rewards.shapers import LogTame
from prl.types import Scores
from tests.helpers.records import make_rollout, ragged_mask

FIRST, SECOND = (0.1, 0.9, 0.5, 0.5), (0.30, 0.31, 0.29, 0.30)


def tamed(weights: dict[str, float], delta: float | None = None, **parts: tuple[float, ...]) -> list[float]:
    given = {name: torch.tensor(part, dtype=torch.float64) for name, part in (parts or BOTH).items()}
    rewards = torch.stack(list(given.values())).sum(0)
    rollout = make_rollout(ragged_mask([1] * len(rewards)))
    return LogTame(weights, delta)(Scores(rewards, components=given), rollout).rewards.tolist()


BOTH = {"first": FIRST, "second": SECOND}


def test_only_the_reward_that_varies_is_tamed() -> None:
    found = tamed({"first": 1.0, "second": 0.0})
    assert found == pytest.approx([0.095310, 0.641854, 0.405465, 0.405465], abs=1e-6)
    assert tamed({"second": 1.0, "first": 0.0}) == pytest.approx(SECOND)


def test_the_sum_is_weighted() -> None:
    found = tamed({"first": 0.2, "second": 1.0})
    assert found == pytest.approx([0.2 * math.log1p(a) + b for a, b in zip(FIRST, SECOND, strict=True)])


def test_a_fixed_delta() -> None:
    assert tamed({"first": 1.0}, delta=0.6) == pytest.approx(FIRST)  # h is .566
    assert tamed({"first": 1.0}, delta=0.5) == pytest.approx([math.log1p(each) for each in FIRST])
    assert tamed({"second": 1.0}, delta=0.02) == pytest.approx([math.log1p(each) for each in SECOND])  # h is .024


def test_order_within_a_reward_stays() -> None:
    found = tamed({"first": 1.0}, delta=0.0)
    assert sorted(range(4), key=lambda n: found[n]) == sorted(range(4), key=lambda n: FIRST[n])


def test_a_failed_response_stays_without_a_reward_and_counts_nowhere() -> None:
    parts = {"first": torch.tensor([*FIRST, math.nan]), "second": torch.tensor([*SECOND, 0.3])}
    scores = Scores(parts["first"] + parts["second"], components=parts)
    found = LogTame({"first": 1.0, "second": 0.0})(scores, make_rollout(ragged_mask([1] * 5))).rewards.tolist()
    assert math.isnan(found[4])
    assert found[:4] == pytest.approx([0.095310, 0.641854, 0.405465, 0.405465], abs=1e-6)


def test_what_cannot_be_tamed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LogTame takes log\(1 \+ first\), and first goes down to -1"):
        tamed({"first": 1.0}, 0.0, first=(-1.0, 1.0))
    with pytest.raises(ValueError, match="LogTame.weights names 'third'; the rewards are first, second"):
        tamed({"third": 1.0})
    with pytest.raises(ValueError, match="LogTame.weights is empty"):
        LogTame({})
    with pytest.raises(ValueError, match="LogTame.delta is -1.0"):
        LogTame({"a": 1.0}, -1.0)
