"""Figures of the studies: what is drawn, from lines of results."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.figures import draw_differences, draw_judges, draw_policies
from prl.evaluation.figures import GREEN, GREY, RED


def test_policies_are_drawn_by_run_and_as_means_without_long_runs(tmp_path: Path, monkeypatch) -> None:
    def line(arm: str, judge: int, golds: list[float]) -> dict:
        points = [{"batch": 5 * n, "kl": 0.1 * n, "gold": gold} for n, gold in enumerate(golds)]
        return {"variant": f"{arm} | judge {judge}", "points": points}

    drawn: list[Figure] = []
    monkeypatch.setattr("experiments.figures._save", lambda figure, path: drawn.append(figure))
    lines = [
        line("a", 0, [0.7, 0.8]),
        line("a", 1, [0.7, 0.9]),
        line("a", 0, [0.7, 0.8, 0.1]),
        line("b", 0, [0.7, 0.6]),
    ]
    draw_policies(lines, ["a", "b", "never run"], tmp_path / "x.png")
    axes = drawn[0].axes[0]
    thick = {each.get_label(): list(each.get_ydata()) for each in axes.lines if each.get_linewidth() > 1}
    assert thick == {"a": [0.7, 0.8500000000000001], "b": [0.7, 0.6]}
    assert len(axes.lines) == 2 + 2 + 1


def test_judges_are_drawn_into_a_file(tmp_path: Path) -> None:
    lines = [{"variant": "paired: one", "accuracy": 0.8 + 0.01 * seed} for seed in range(3)]
    draw_judges(lines, ["paired", "never run"], ["one", "other"], tmp_path / "deep" / "x.png")
    assert (tmp_path / "deep" / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_differences_are_drawn_with_the_wider_interval_and_coloured_by_their_side(tmp_path: Path, monkeypatch) -> None:
    def runs(lead: float, of_judges: float, of_seeds: float) -> dict[tuple[int, int], float]:
        return {(j, s): lead + of_judges * (2 * j - 1) + of_seeds * (2 * s - 1) for j in (0, 1) for s in (0, 1)}

    drawn: list[Figure] = []
    monkeypatch.setattr("experiments.figures._save", lambda figure, path: drawn.append(figure))
    found = {
        "helps": runs(0.5, 0.01, 0.02),
        "hurts": runs(-0.5, 0.02, 0.01),
        "open": runs(0.1, 0.02, 0.0),
        "alone": {(0, 0): 1.0},
    }
    draw_differences(found, "whole", tmp_path / "x.png")
    axes = drawn[0].axes[0]
    bars = [each.lines[2][0].get_segments()[0] for each in axes.containers if each.has_xerr]
    # Two means that lie 2d apart have a standard error of d; Student's t with one degree of freedom is 12.706.
    assert [(end[0] - start[0]) / 2 for start, end in bars] == pytest.approx([12.706 * 0.02] * 3, rel=1e-6)
    assert [each.lines[0].get_color() for each in axes.containers] == [GREEN, RED, GREY, GREY]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found)
