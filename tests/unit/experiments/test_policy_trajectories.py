"""Quality at equal KL, and intervals over crossed judges and seeds."""

import pytest

from experiments.trajectories import crossed_interval, gold_at, policy_tables

POINTS = [
    {"batch": 0, "kl": 0.0, "gold": 0.7},
    {"batch": 5, "kl": 0.2, "gold": 0.8},
    {"batch": 10, "kl": 0.1, "gold": 0.9},
]


def test_quality_where_a_run_first_passes_a_budget() -> None:
    assert gold_at(POINTS, 0.1) == pytest.approx(0.75)
    assert gold_at(POINTS, 0.25) is None


def test_interval_is_the_wider_of_judges_and_seeds() -> None:
    """Judges 0.1 apart, seeds equal: means of judges 0.8 and 0.9, t(1) = 12.706, deviation 0.0707."""
    values = {(judge, seed): 0.8 + 0.1 * judge for judge in range(2) for seed in range(3)}
    assert crossed_interval(values) == (pytest.approx(0.85), pytest.approx(12.706 * 0.070711 / 2**0.5, rel=1e-4))
    swapped = {(seed, judge): value for (judge, seed), value in values.items()}
    assert crossed_interval(swapped) == pytest.approx(crossed_interval(values))
    with pytest.raises(ValueError, match="1 judge; an interval needs two"):
        crossed_interval({(0, seed): 0.8 for seed in range(3)})


def test_table_keeps_long_runs_apart_and_pairs_runs() -> None:
    def line(arm: str, judge: int, seed: int, gold: float, long: str = "") -> dict:
        points = [{**point, "batch": 9 * point["batch"] // 2, "gold": gold} for point in POINTS]
        points += [{"batch": batch, "kl": 1.0, "gold": gold} for batch in (90, 135, 180)]
        own = {"variant": f"{arm} | judge {judge}{long}", "judge": judge, "seed": seed}
        return {**own, "coef": 0.03, "cpu_seconds": 60.0, "gold": gold, "points": points}

    lines = [line(arm, j, s, 0.9 - 0.1 * n) for n, arm in enumerate(("a", "b")) for j in range(2) for s in range(2)]
    long = [line("a", 0, seed, 0.5 + 0.1 * seed, ", long") for seed in range(2)]
    long[0]["points"][2]["gold"] = 0.8  # its best
    text = policy_tables([*lines, *long], ["a", "b", "never run"])
    assert "| a | 0.03 | 4 | 0.900 ± 0.000 |" in text
    assert "| b | +0.100 ± 0.000, supported |" in text
    # Best 0.8 and 0.6, lost 0.3 and 0, last 0.5 and 0.6: half widths 12.706 |difference| / 2.
    found = next(row for row in text.splitlines() if row.startswith("| a | 2 |"))
    assert found.startswith("| a | 2 | 0.700 ± 1.271 | 0.150 ± 1.906 |")
    assert found.endswith(" | 0.550 ± 0.635 |")
    assert "never run" not in text
