"""Onsets, alarms, delays and limits, on runs that are written by hand."""

import pytest

from experiments.detection import alarm_table, change, chosen_limit, counts, fall, level, onset, rise


def run_of(gold: list[float], gap: list[float] | None = None, every: int = 3) -> list[dict[str, float]]:
    gaps = gap or [0.0] * len(gold)
    return [{"batch": every * n, "gold": g, "gap": s} for n, (g, s) in enumerate(zip(gold, gaps, strict=True))]


SICK = [0.7, 0.8, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6]
WELL = [0.7, 0.8, 0.9, 0.9, 0.9, 0.9, 0.88, 0.89]


def test_onset_is_the_best_smoothed_validation_of_a_run_that_ends_lower() -> None:
    """Means of three: 0.70 0.75 0.80 0.867 0.90 0.867 0.80 0.70."""
    assert onset(run_of(SICK)) == 4
    assert onset(run_of(WELL)) is None


def test_delay_counts_from_the_onset_and_alarms_before_it_are_false() -> None:
    gap = [0.0, 0.2, 0.0, 0.0, 0.05, 0.1, 0.3, 0.3]
    found = counts([run_of(SICK, gap), run_of(WELL)], level("gap"), 0.15)
    assert found == {"delays": [6.0], "missed": 0, "false": 1, "healthy": 12.0 + 21.0}
    assert counts([run_of(SICK, gap)], level("gap"), 0.3) == {"delays": [], "missed": 1, "false": 0, "healthy": 12.0}


def test_signals_use_only_what_was_known() -> None:
    points = run_of([0.0] * 4, [2.0, 3.0, 1.0, 2.5])
    assert rise("gap")(points) == [0.0, 1.0, -1.0, 0.5]
    assert fall("gap")(points) == [0.0, 0.0, 2.0, 0.5]
    assert change("gap")(points) == pytest.approx([0.0, 0.5, 0.5, 0.25])
    for signal in (rise("gap"), fall("gap"), change("gap"), level("gap")):
        assert signal(points)[:2] == signal(points[:2])


def test_limit_is_the_lowest_that_keeps_false_alarms_rare() -> None:
    """110 healthy iterations allow one alarm: of the values above the limit, one may be left."""
    healthy = run_of([0.9] * 11, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0], every=11)
    assert chosen_limit([healthy], level("gap")) == 0.4
    assert chosen_limit([run_of([0.9] * 6, [0.0, 0.1, 0.2, 0.3, 0.2, 0.1])], level("gap")) == 0.3


def test_limits_of_a_judge_come_from_other_judges() -> None:
    """Judge 0 is exploited at a gap of 0.1, judge 1 has a harmless gap of 0.3: its limit is too high for judge 0."""

    def line(judge: int, gold: list[float], gap: list[float]) -> dict:
        names = ("win_rate", "goodhart_gap_lo", "goodhart_gap", "win_rate_heldout", "kl", "length", "order_gap")
        points = [{**p, **dict.fromkeys(names, 1.0), "goodhart_gap": p["gap"]} for p in run_of(gold, gap)]
        return {"judge": judge, "points": points}

    low = [0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.1]
    lines = [line(0, SICK, low), line(1, WELL, [0.3] * 8)]
    text = alarm_table(lines)
    assert "2 runs, 1 of them over-optimised" in text
    assert "| gap between judges | 0.300, 0.000 | 0 of 1 |  | 24.24 |" in text
