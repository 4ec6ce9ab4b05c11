"""The whole report of a judge on labelled pairs."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules import judge_validation
from prl.data.rows.records import PreferencePair
from prl.evaluation.judge.report import JudgedPairs, judge_report
from prl.judge.examination import examine
from prl.verdict import Verdict
from tests.helpers.pairs import QualityJudge, labelled_pairs
from tests.helpers.tiny import ConstantJudge, LengthJudge, PlantedJudge, PositionJudge


def judged(rows: list[tuple], sources: tuple = ()) -> JudgedPairs:
    """Rows of (z(a, b), z(b, a), target, prompt, length of a, length of b)."""
    ab, ba, targets, prompts, *lengths = zip(*rows, strict=True)
    columns = [torch.tensor(column, dtype=torch.float64) for column in (ab, ba, targets)]
    return JudgedPairs(Verdict(*columns[:2]), columns[2], prompts, torch.tensor(lengths).T, sources)


def same(a: Any, b: Any) -> bool:
    """Equal but for the last digits of sums taken in another order."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6))


# ---- by hand

ROWS = [
    (2.0, -2.0, 1.0, "p", 10, 20),  # right, the shorter is better
    (1.0, 3.0, 1.0, "p", 20, 18),  # wrong when averaged: the first place wins both; lengths just within 10 %
    (-1.0, 1.0, 0.0, "q", 30, 10),  # right, the label says b, which is the shorter
    (4.0, -2.0, 0.8, "r", 10, 10),  # right, soft, equal lengths
    (3.0, -1.0, 0.5, "s", 50, 10),  # a tie
]


def test_report_by_hand() -> None:
    found = judge_report(judged(ROWS))
    assert (found["num_pairs"], found["num_prompts"], found["num_ties"]) == (5, 4, 1)
    assert found["accuracy"]["mean"] == 0.75
    assert found["accuracy"]["num"] == 4
    assert found["accuracy_better_first"]["mean"] == 1.0
    assert found["accuracy_better_second"]["mean"] == 0.75
    assert (found["accuracy_length_matched"]["mean"], found["accuracy_length_matched"]["num"]) == (0.5, 2)
    assert (found["accuracy_shorter_wins"]["mean"], found["accuracy_shorter_wins"]["num"]) == (1.0, 2)
    assert found["baseline_longer"]["mean"] == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert (found["longer_rate"]["mean"], found["longer_rate"]["num"]) == (0.25, 4)  # only the tie's longer one
    assert found["flip_rate"]["mean"] == pytest.approx(1 / 5)
    assert found["first_position_rate"]["mean"] == pytest.approx((0.5 + 1 + 0.5 + 0.5 + 0.5) / 5)
    assert found["margin"]["mean"] == pytest.approx((2 - 1 + 1 + 0.6 * 3 + 0) / 5)


def test_loss_and_order_gap_by_hand() -> None:
    found = judge_report(judged(ROWS))
    margins, targets = [2.0, -1.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 0.8, 0.5]
    prob = [1 / (1 + math.exp(-z)) for z in margins]
    nll = [-t * math.log(p) - (1 - t) * math.log(1 - p) for p, t in zip(prob, targets, strict=True)]
    assert found["nll"]["mean"] == pytest.approx(sum(nll) / 5)
    assert found["brier"]["mean"] == pytest.approx(sum((p - t) ** 2 for p, t in zip(prob, targets, strict=True)) / 5)
    gaps = [abs(1 / (1 + math.exp(-u)) + 1 / (1 + math.exp(-v)) - 1) for u, v, *_ in ROWS]
    assert found["order_gap"]["mean"] == pytest.approx(sum(gaps) / 5)


def test_scaling_by_the_temperature() -> None:
    found = judge_report(judged([(4.0, -4.0, 1.0, n, 5, 5) for n in range(3)] + [(4.0, -4.0, 0.0, 3, 5, 5)]))
    # Right three times of four, so the best stated probability is 3/4: log-odds of log 3.
    assert found["temperature"]["mean"] == pytest.approx(4 / math.log(3), rel=1e-4)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["nll_after_temperature"]["mean"] == pytest.approx(entropy, rel=1e-6)
    assert found["nll"]["mean"] > 1
    assert found["ece"] == pytest.approx(1 / (1 + math.exp(-4)) - 0.75, abs=1e-6)
    assert found["ece_after_temperature"] == pytest.approx(0.0, abs=1e-6)


def test_sources_and_their_intervals() -> None:
    found = judge_report(judged(ROWS, ("x", "y", "x", None, "y")))["sources"]
    assert {name: (each["mean"], each["num"]) for name, each in found.items()} == {"x": (1.0, 2), "y": (0.0, 1)}


def test_intervals_are_by_prompt() -> None:
    rows = [(1.0 if n % 3 else -1.0, -1.0 if n % 3 else 1.0, 1.0, n, 5, 5) for n in range(60)]
    once = judge_report(judged(rows), resamples=500)["accuracy"]
    often = judge_report(judged([row for row in rows for _ in range(6)]), resamples=500)["accuracy"]
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    assert often["num"] == 6 * once["num"]


def test_figures_without_a_case_are_none() -> None:
    found = judge_report(judged([(1.0, -1.0, 0.5, "p", 10, 20)]))
    assert found["num_ties"] == 1
    for name in ("accuracy", "accuracy_length_matched", "accuracy_shorter_wins", "baseline_longer", "ece"):
        assert found[name] is None
    assert found["nll"]["mean"] > 0


# ---- the order of a file


def swapped(pairs: JudgedPairs) -> JudgedPairs:
    verdict = Verdict(pairs.verdict.margin_ba, pairs.verdict.margin_ab)
    return JudgedPairs(verdict, 1 - pairs.targets, pairs.prompts, pairs.lengths.flip(1), pairs.sources)


numbers = st.floats(-8, 8).map(lambda z: round(z, 3))
pair_rows = st.tuples(
    numbers,
    numbers,
    st.sampled_from([0.0, 0.25, 0.5, 0.875, 1.0]),
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 40),
)


@given(st.lists(pair_rows, min_size=1, max_size=12), st.booleans())
@settings(max_examples=60)
def test_swapping_every_pair_changes_no_number(rows: list[tuple], named: bool) -> None:
    pairs = judged(rows, tuple(str(n % 2) for n in range(len(rows))) if named else ())
    assert same(judge_report(pairs, resamples=20), judge_report(swapped(pairs), resamples=20))


def test_swapping_turns_the_margin_of_each_pair() -> None:
    pairs = judged(ROWS)
    assert swapped(pairs).verdict.win_logit.tolist() == (-pairs.verdict.win_logit).tolist()


def test_swapping_the_file_changes_no_number_of_an_examination() -> None:
    pairs = labelled_pairs(60)
    other_way = [PreferencePair(p.prompt, p.rejected, p.chosen, 1 - p.preference, extra=p.extra) for p in pairs]
    judge = QualityJudge(2.0, bias=0.7)
    assert same(examine(judge, pairs), examine(judge, other_way))


# ---- planted judges


def test_length_judge_is_seen_through() -> None:
    found = examine(LengthJudge(), labelled_pairs(400))
    assert found["accuracy"]["mean"] == found["baseline_longer"]["mean"] > 0.6
    assert found["longer_rate"]["mean"] == 1.0
    assert found["accuracy_shorter_wins"]["mean"] == 0.0


def test_position_judge_is_seen_through() -> None:
    found = examine(PositionJudge(2.0), labelled_pairs(100))
    assert found["accuracy"]["mean"] == 0.5
    assert found["accuracy_better_first"]["mean"] == 1.0
    assert found["accuracy_better_second"]["mean"] == 0.0
    assert found["flip_rate"]["mean"] == found["first_position_rate"]["mean"] == 1.0


def test_judge_without_opinion() -> None:
    found = examine(ConstantJudge(), labelled_pairs(100))
    assert found["accuracy"]["mean"] == found["first_position_rate"]["mean"] == 0.5
    assert found["flip_rate"]["mean"] == 0.0
    assert found["temperature"]["mean"] == 1.0


def test_an_overconfident_judge_and_its_temperature() -> None:
    pairs = labelled_pairs(1500)
    calm, loud = examine(QualityJudge(1.0), pairs), examine(QualityJudge(4.0), pairs)
    assert calm["temperature"]["low"] < 1.0 < calm["temperature"]["high"]
    assert loud["temperature"]["low"] < 4.0 < loud["temperature"]["high"]
    assert loud["ece"] > calm["ece"] + 0.05
    assert loud["ece_after_temperature"] == pytest.approx(calm["ece_after_temperature"], abs=1e-6)
    assert loud["nll_after_temperature"]["mean"] < loud["nll"]["mean"]
    assert loud["accuracy"] == calm["accuracy"]


# ---- what cannot be reported


class BrokenJudge(PlantedJudge):
    def rule(self, first: str, second: str) -> float:
        return math.nan if "+++" in first else 1.0


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\d+ of 40 margins are not finite"):
        examine(BrokenJudge(), labelled_pairs(20))


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        examine(ConstantJudge(), [])


def test_columns_of_different_lengths_are_refused() -> None:
    pairs = judged(ROWS)
    with pytest.raises(ValueError, match="5 verdicts"):
        JudgedPairs(pairs.verdict, pairs.targets[:4], pairs.prompts, pairs.lengths)


def test_a_report_is_in_the_order_of_the_file_whichever_process_read_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as if the first process had read the last rows."""
    seen: dict[str, Any] = {}

    def noted(rows: Any, verdict: Verdict, targets: torch.Tensor) -> None:
        seen.update(rows=rows, margins=verdict.margin_ab.tolist(), targets=targets.tolist())

    monkeypatch.setattr(judge_validation, "judged_rows", noted)
    parts = [torch.tensor([[2.0, -2.0, 1.0], [3.0, -3.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.5], [1.0, -1.0, 0.0]])]
    rows = [torch.tensor([2, 3]), torch.tensor([0, 1])]
    stage: Any = SimpleNamespace(_readings=parts, _rows=rows, _encoded_rows=torch.Tensor.tolist, tensorboard=None)
    stage.log = lambda *_, **__: None
    judge_validation.JudgeValidation.on_validation_epoch_end(stage)
    assert seen == {"rows": [0, 1, 2, 3], "margins": [0.0, 1.0, 2.0, 3.0], "targets": [0.5, 0.0, 1.0, 0.0]}
