"""Figures of the studies, in matplotlib without pyplot's global state."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.runs import T_95
from experiments.trajectories import mean_and_half
from prl.evaluation.figures import BLUE, GREEN, GREY, ORANGE, RED

COLOURS = (BLUE, ORANGE, RED, "#cc79a7", GREY, GREEN, "#56b4e9", "#f0e442", "black")


def draw_policies(lines: list[dict[str, Any]], arms: Sequence[str], path: Path) -> None:
    """Draw true quality against the KL to the start: thin a run, thick the means of each arm by iteration."""
    figure = Figure(figsize=(7.2, 5.2), dpi=110)
    axes = figure.subplots()
    for number, name in enumerate(arms):
        runs = [line["points"] for line in lines if line["variant"].partition(" | ")[0] == name]
        runs = [points for points in runs if len(points) == min(map(len, runs))]  # without long ones
        colour, by_batch = COLOURS[number % len(COLOURS)], defaultdict(list)
        for points in runs:
            axes.plot([p["kl"] for p in points], [p["gold"] for p in points], color=colour, linewidth=0.6, alpha=0.25)
            for point in points:
                by_batch[point["batch"]].append((point["kl"], point["gold"]))
        means = [tuple(map(statistics.fmean, zip(*some, strict=True))) for some in by_batch.values()]
        if means:
            axes.plot(*zip(*means, strict=True), color=colour, marker="o", markersize=3, linewidth=1.8, label=name)
    axes.set(xlabel="KL to the start, nats a response", ylabel="true quality on unseen prompts")
    axes.set_title("Thin lines are runs, thick ones their means by iteration", fontsize=10)
    axes.legend(fontsize=8)
    _save(figure, path)


def draw_judges(lines: list[dict[str, Any]], cells: Sequence[str], arms: Sequence[str], path: Path) -> None:
    """Draw the accuracy of each arm by cell, with 95 % intervals over seeds (Student's t) where there are two."""
    figure = Figure(figsize=(7.2, 1.6 + 0.55 * len(cells)), dpi=110)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        for row, cell in enumerate(cells):
            found = [line["accuracy"] for line in lines if line["variant"] == f"{cell}: {arm}"]
            if not found:
                continue
            half = 0.0
            if len(found) > 1:
                half = T_95[max(n for n in T_95 if n <= len(found))] * statistics.stdev(found) / len(found) ** 0.5
            place = row + 0.16 * (number - (len(arms) - 1) / 2)
            label = arm if row == 0 else None
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(statistics.fmean(found), place, xerr=half, fmt="o", color=colour, capsize=2, label=label)
    axes.set(yticks=range(len(cells)), yticklabels=list(cells), xlabel="accuracy, with 95 % intervals over seeds")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    _save(figure, path)


def draw_differences(found: dict[str, dict[tuple[int, int], float]], first: str, path: Path) -> None:
    """Draw by how much an arm is ahead of others, with 95 % intervals where there are two judges and two seeds.

    Args:
        found: name of another arm -> difference of each run, by judge and seed.
        first: name of the arm.
        path: of the picture.
    """
    figure = Figure(figsize=(7.2, 1.2 + 0.32 * len(found)), dpi=110)
    axes = figure.subplots()
    for row, values in enumerate(found.values()):
        mean, half = mean_and_half(values)
        colour = GREY if half is None or abs(mean) <= half else GREEN if mean > 0 else RED
        axes.errorbar(mean, row, xerr=half, fmt="o", color=colour, capsize=2)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(
        yticks=range(len(found)),
        yticklabels=list(found),
        xlabel=f"{first} less this: true quality at the end, 95 % intervals",
    )
    axes.invert_yaxis()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
