"""Draw the curves of a quickstart run: python docs/images/run.py runs/quickstart docs/images/run.png."""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BLUE, GREY = "#3f51b5", "#8590a0"


def scalars(stage: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read every number that a stage logged: tag -> steps and values."""
    events = EventAccumulator(str(stage)).Reload()
    read = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([each.step for each in points], [each.value for each in points]) for tag, points in read.items()}


def draw(run: Path) -> Figure:
    """Draw the judge's accuracy, then of PPO the win probability, the KL, and the true quality at both ends."""
    judge, ppo = scalars(run / "judge"), scalars(run / "ppo")
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    (accuracy, win), (kl, quality) = figure.subplots(2, 2)
    _line(accuracy, judge["val/accuracy"], "Judge: accuracy on unseen pairs", "training step")
    _line(win, ppo["reward/win_prob"], "Win probability, by the judge", "PPO iteration")
    win.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    win.set_ylim(top=0.53)
    win.text(0.5, 0.506, "as good as the anchor", color=GREY)
    _line(kl, ppo["kl/k1"], "KL to the reference, nats per response", "PPO iteration")
    _bars(quality, json.loads((run / "report.json").read_text())["policy"])
    return figure


def _line(panel: Any, points: tuple[list[int], list[float]], title: str, below: str) -> None:
    panel.plot(*points, color=BLUE, linewidth=2, marker="o" if len(points[0]) < 10 else None)
    panel.set_xlim(left=0)
    panel.set_xlabel(below)
    _dress(panel, title)


def _bars(panel: Any, report: dict[str, float]) -> None:
    names = ("before", "after")
    ends = [report[f"gold_{name}"] for name in names]
    below = [report[f"gold_{name}"] - report[f"gold_{name}_lo"] for name in names]
    above = [report[f"gold_{name}_hi"] - report[f"gold_{name}"] for name in names]
    style = {"color": [GREY, BLUE], "height": 0.6, "capsize": 4}
    bars = panel.barh(["before PPO", "after PPO"], ends, xerr=[below, above], **style)
    panel.bar_label(bars, fmt="%.2f", label_type="center", color="white", fontsize=12)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel("share of the best possible")
    _dress(panel, "True quality, which nothing learnt from")


def _dress(panel: Any, title: str) -> None:
    panel.set_title(title, fontsize=11.5, loc="left")
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(Path(sys.argv[1])).savefig(sys.argv[2], dpi=150, facecolor="white")
