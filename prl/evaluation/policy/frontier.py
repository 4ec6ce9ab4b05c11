"""What a policy pays in KL for its win rate, validation after validation, and which checkpoint is worth shipping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from prl.evaluation.figures import BLUE, GREEN, GREY, ORANGE, RED

MEASURES = {
    "win_rate_heldout_lc": "held-out judge, length-controlled",
    "win_rate_lc": "training judge, length-controlled",
    "win_rate": "training judge",
}
"""Win rates that a frontier may show, the most trustworthy first."""
_COLOURS = (BLUE, ORANGE, GREEN, RED, "#cc79a7", "#56b4e9", "#f0e442")


@dataclass(frozen=True)
class Point:
    """One validation."""

    batch: int
    kl_sqrt: float
    rate: float
    low: float
    high: float
    alarmed: bool = False
    """Whether the gap between the judges had raised its alarm by then."""


def common_measure(lines: Sequence[Mapping[str, Any]]) -> str:
    """The most trustworthy win rate that every one of these validations has.

    Raises:
        ValueError: when they share none.
    """
    for name in MEASURES:
        if all(name in line for line in lines):
            return name
    raise ValueError(f"the validations share none of the win rates {', '.join(MEASURES)}")


def run_points(lines: Sequence[Mapping[str, Any]], measure: str | None = None) -> list[Point]:
    """The validations of a run in the order of training, by a measure; by their best common one when None."""
    name = measure or common_measure(lines)
    keys = ("batch", "kl_sqrt", name, f"{name}_lo", f"{name}_hi")
    first = min((line["batch"] for line in lines if line.get("goodhart_alarm")), default=None)
    return [
        replace(Point(*(line[key] for key in keys)), alarmed=first is not None and line["batch"] >= first)
        for line in lines
        if None not in [line.get(key) for key in keys]
    ]


def to_ship(runs: Mapping[str, Sequence[Point]]) -> tuple[str, Point]:
    """The run and the validation with the highest lower bound of the win rate; of equal ones that of smaller KL.

    The lower bound and not the rate: among many validations the highest rate is the luckiest. From the first alarm of
    the gap between its judges on, a run has nothing to ship, however high its rate: what rises then may be what judges
    like and nobody else. When every validation comes after an alarm, all of them count.

    Raises:
        ValueError: when there is no validation.
    """
    every = [(name, point) for name, points in runs.items() for point in points]
    if not every:
        raise ValueError("no validation to choose from")
    sound = [found for found in every if not found[1].alarmed]
    return min(sound or every, key=lambda found: (-found[1].low, found[1].kl_sqrt))


def knee(points: Sequence[Point]) -> Point | None:
    """Where more KL starts to buy less: the point highest above the line from the smallest KL to the highest rate.

    None where nothing bends: fewer than three points up to the highest rate, or none above the line.
    """
    ordered = sorted(points, key=lambda point: point.kl_sqrt)
    if not ordered:
        return None
    first, best = ordered[0], max(ordered, key=lambda point: point.rate)
    width, height = best.kl_sqrt - first.kl_sqrt, best.rate - first.rate
    if width <= 0 or height <= 0:
        return None

    def above(point: Point) -> float:
        return (point.rate - first.rate) / height - (point.kl_sqrt - first.kl_sqrt) / width

    highest = max((point for point in ordered if point.kl_sqrt <= best.kl_sqrt), key=above)
    return highest if above(highest) > 1e-9 else None


def draw_frontier(runs: Mapping[str, Sequence[Point]], measure: str | None = None) -> Figure:
    """One line per run in the order of training, with intervals, knees and the checkpoint to ship."""
    figure = Figure(figsize=(7.2, 5.2), dpi=100)
    figure.subplots_adjust(left=0.11, right=0.97, top=0.9, bottom=0.12)
    axes = figure.subplots()
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1, label="as good as the anchors")
    for number, (name, points) in enumerate(runs.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        x, y = [point.kl_sqrt for point in points], [point.rate for point in points]
        # A percentile interval of the bootstrap need not hold the estimate itself.
        error = [[max(p.rate - p.low, 0) for p in points], [max(p.high - p.rate, 0) for p in points]]
        axes.errorbar(x, y, yerr=error, color=colour, marker="o", markersize=4, capsize=2, linewidth=1.2, label=name)
        for point in {points[0], points[-1]} if points else ():
            axes.annotate(str(point.batch), (point.kl_sqrt, point.rate), xytext=(5, 5), textcoords="offset points")
        late = [point for point in points if point.alarmed]
        if late:
            label = f"{name}, after the alarm" if len(runs) > 1 else "after the alarm"
            x, y = [point.kl_sqrt for point in late], [point.rate for point in late]
            axes.plot(x, y, "x", color=RED, markersize=9, markeredgewidth=2, label=label, zorder=4)
        bend = knee(points)
        if bend is not None:
            axes.plot(bend.kl_sqrt, bend.rate, marker="D", markersize=9, markerfacecolor="none", color=colour)
            axes.plot([], [], "D", color=colour, markerfacecolor="none", label=f"knee, batch {bend.batch}")
    if any(runs.values()):
        name, best = to_ship(runs)
        label = f"to ship: {name}, batch {best.batch}" if len(runs) > 1 else f"to ship: batch {best.batch}"
        axes.plot(
            best.kl_sqrt, best.rate, "*", markersize=17, color="black", markerfacecolor="gold", label=label, zorder=5
        )
    words = f"{MEASURES[measure]}; " if measure else ""
    axes.set(xlabel="sqrt(KL to the reference), KL in nats per response", ylabel="win rate against the anchors")
    axes.set_title(f"Frontier ({words}numbers are training batches)", fontsize=10)
    axes.margins(x=0.05)
    axes.legend(fontsize=8, loc="best")
    return figure
