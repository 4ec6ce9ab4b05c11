"""Searches of settings by the quality of their runs."""

import math

import pytest

from experiments.training import best_setting


@pytest.mark.parametrize(
    ("peak", "tried", "best", "runs"),
    [
        (2.0, (1.0, 2.0, 4.0), 2.0, 3),
        (17.0, (1.0, 2.0, 4.0), 16.0, 6),  # up to 32, which is worse
        (0.24, (1.0, 2.0, 4.0), 0.25, 6),  # down to 0.125
        (1e-9, (0.0, 1.0), 0.0, 2),  # nothing lies below zero
    ],
)
def test_a_search_goes_on_until_a_worse_setting_lies_on_either_side(peak, tried, best, runs, tmp_path) -> None:
    made = []

    def train(setting: float) -> dict[str, float]:
        made.append(setting)
        return {"quality": -abs(math.log((setting + 1e-12) / peak)) if setting > 0 or peak > 1e-3 else 1.0}

    for _ in range(2):  # the second time every run is there
        found = best_setting(tmp_path / "runs.jsonl", "arm", tried, 0, train, lambda line: line["quality"], factor=2)
        assert found == best
        assert len(made) == len(set(made)) == runs
