"""Figure of a frontier, in matplotlib without pyplot's global state."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from prl.evaluation.figures import BLUE, GREEN, GREY, ORANGE, RED
from prl.evaluation.policy.frontier import MEASURES, Point, best_checkpoint, knee

_COLOURS = (BLUE, ORANGE, GREEN, RED, "#cc79a7", "#56b4e9", "#f0e442")


def draw_frontier(runs: Mapping[str, Sequence[Point]], measure: str | None = None) -> Figure:
    """Draw one line per run in the order of training, with intervals, knees and the checkpoint to ship."""
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
    if any(not point.extrapolated for points in runs.values() for point in points):
        name, best = best_checkpoint(runs)
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
