"""Figures of a policy's validation from its comparisons, and what they leave on disk."""

import json
from pathlib import Path

import pytest

from prl.evaluation.policy.report import goodhart_gap, judge_difference, policy_report
from prl.evaluation.policy.validation_log import ComparisonRow, ValidationLog, read_validations


def row(number: int, margin: float, heldout: float | None = None, prompt: str | None = None, **values) -> ComparisonRow:
    prob = 1 / (1 + 2.718281828459045**-margin)
    found = {
        **{"row": number, "prompt": [{"role": "user", "content": prompt or f"question {number}"}]},
        **{"response": "abc", "anchor": "ab", "margin": margin, "p_win": prob, "p_response_first": prob},
        **{"p_anchor_first": prob, "length": 4, "truncated": False, "kl": 1.0},
    }
    if heldout is not None:
        found |= {"heldout_margin": heldout, "heldout_p_win": 1 / (1 + 2.718281828459045**-heldout)}
    return found | values


def test_figures_by_hand() -> None:
    rows = [row(0, 1.0, kl=4.0), row(1, -1.0, truncated=True), row(2, 0.0, length=10, p_anchor_first=0.7)]
    numbers = policy_report(rows)
    assert numbers["win_rate"] == pytest.approx(0.5)
    assert numbers["win_prob"] == pytest.approx(0.5)
    assert numbers["kl"] == pytest.approx(2.0)
    assert numbers["kl_sqrt"] == pytest.approx(2**0.5)
    assert numbers["length"] == pytest.approx(6)
    assert numbers["clipped_ratio"] == pytest.approx(1 / 3)
    assert numbers["order_gap"] == pytest.approx(0.2 / 3)
    assert not any("heldout" in name for name in numbers)


def test_a_response_counts_once_however_many_anchors_it_has() -> None:
    rows = [row(0, 1.0), row(1, -1.0), row(1, -1.0), row(1, -1.0)]
    assert policy_report(rows)["win_rate"] == pytest.approx(0.5)
    assert policy_report(rows)["win_rate_lc"] == pytest.approx(0.5, abs=1e-3)


def test_a_negative_estimate_of_the_kl_has_no_root() -> None:
    assert policy_report([row(0, 1.0, kl=-0.5)])["kl_sqrt"] == 0.0


def test_the_heldout_judge_has_figures_of_its_own() -> None:
    numbers = policy_report([row(n, 1.0, -1.0 if n % 4 else 1.0) for n in range(8)])
    assert (numbers["win_rate"], numbers["win_rate_heldout"]) == (1.0, 0.25)
    assert numbers["win_rate_heldout_lo"] < 0.25 < numbers["win_rate_heldout_hi"]


def test_the_gap_is_the_rise_beyond_that_of_the_heldout_judge() -> None:
    first = [row(n, -1.0, -1.0) for n in range(40)]
    together = [row(n, 1.0, 1.0) for n in range(40)]
    gamed = [row(n, 1.0, 1.0 if n < 10 else -1.0) for n in range(40)]
    start = judge_difference(first)
    assert goodhart_gap(start, judge_difference(together)) == (0.0, 0.0, 0.0)
    gap = goodhart_gap(start, judge_difference(gamed))
    assert gap.mean == pytest.approx(0.75)
    assert 0.5 < gap.low < 0.75 < gap.high < 1


def test_what_prompts_have_in_common_cancels_in_the_gap() -> None:
    """Judges that always disagree on half the prompts show no gap, and without noise."""
    rows = [row(n, 1.0, 1.0 if n % 2 else -1.0) for n in range(20)]
    assert goodhart_gap(judge_difference(rows), judge_difference(rows)) == (0.0, 0.0, 0.0)


def test_other_prompts_than_at_first_give_no_gap() -> None:
    assert goodhart_gap(judge_difference([row(0, 1.0, 1.0)]), judge_difference([row(1, 1.0, 1.0)])) is None


def test_what_one_of_the_judges_could_not_read_is_no_difference() -> None:
    nan = float("nan")
    rows = [row(0, nan, 1.0), row(1, 1.0, nan), row(2, 1.0, -1.0)]
    assert list(judge_difference(rows).values()) == [1.0]


# ---- files


def test_validations_of_lost_batches_are_replaced(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    for batch in (2, 4, 6):
        log.add(batch, {"win_rate": batch / 10}, [{"row": batch}])
    log.forget_after(4)
    assert [line["batch"] for line in log.read()] == [2, 4]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "batch=000002.jsonl",
        "batch=000004.jsonl",
    ]
    log.add(4, {"win_rate": 0.9}, [{"row": 0}])
    assert [line["win_rate"] for line in log.read()] == [0.2, 0.9]
    assert log.rows(4) == [{"row": 0}]
    assert log.rows(6) == []


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    log.add(1, {"win_rate": float("nan"), "kl": float("inf"), "length": 3.0}, [{"response": "ü", "kl": float("nan")}])
    assert log.read() == [{"batch": 1, "win_rate": None, "kl": None, "length": 3.0}]
    assert json.loads(log.samples(1).read_text(encoding="utf-8")) == {"response": "ü", "kl": None}


def test_repeated_lines_count_once_and_a_cut_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text('{"batch": 4, "kl": 1}\n{"batch": 2, "kl": 2}\n{"batch": 4, "kl": 3}\n')
    assert [(line["batch"], line["kl"]) for line in read_validations(path)] == [(2, 2), (4, 3)]
    path.write_text('{"batch": 2}\n{"batch": 4, "k')
    with pytest.raises(ValueError, match=r"validation\.jsonl, line 2: expected an object with a number `batch`"):
        read_validations(path)
