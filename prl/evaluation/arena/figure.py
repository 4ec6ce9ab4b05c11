"""Picture of an arena: the scale with its intervals, and the matrix of direct win rates."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from prl.evaluation.figures import BLUE, GREY, ORANGE

_MOST_NUMBERS = 14
"""Players up to which the cells of the matrix have numbers in them."""


def draw_arena(report: dict[str, Any]) -> Figure:
    """Draw a report of `arena_report`; the best player is at the top."""
    players = report["players"]
    height = max(4.2, 0.42 * len(players) + 1.6)
    figure = Figure(figsize=(12.4, height), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_scale(left, players)
    _draw_rates(figure, right, [player["name"] for player in players], report["pairs"])
    counted = "win probabilities" if report["outcome"] == "probability" else "wins, ties half"
    made = f"{report['comparisons']} comparisons on {report['prompts']} prompts"
    figure.suptitle(f"Arena of {len(players)} players: {made}, {counted}", fontsize=11)
    return figure


def _draw_scale(axes: Any, players: list[dict[str, Any]]) -> None:
    places = np.arange(len(players))
    low, high = (min(each[0] for each in map(_ends, players)), max(each[1] for each in map(_ends, players)))
    margin = 0.06 * (high - low) + 1e-9
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1)
    for place, player in enumerate(players):
        own = player["by_prompt"]
        ends = [
            low - margin if own["low"] is None else own["low"],
            high + margin if own["high"] is None else own["high"],
        ]
        axes.plot(ends, [place, place], color=BLUE, linewidth=2, solid_capstyle="butt", zorder=1)
        for end, open_end, mark in ((ends[0], own["low"] is None, "<"), (ends[1], own["high"] is None, ">")):
            axes.plot(end, place, mark if open_end else "|", color=BLUE, markersize=8, markeredgewidth=2, zorder=2)
    axes.plot(
        [p["score"] for p in players], places, "o", color=BLUE, markersize=7, zorder=3, label="score, 95 % by prompt"
    )
    fair = [
        (p["at_equal_lengths"]["score"], n) for n, p in enumerate(players) if not p["at_equal_lengths"]["extrapolated"]
    ]
    if fair:
        x, y = zip(*fair, strict=True)
        axes.plot(x, np.array(y) + 0.22, "D", color=ORANGE, markersize=5, label="at equal lengths", zorder=3)
    if any(None in player["by_prompt"].values() for player in players):
        axes.plot([], [], ">", color=BLUE, label="no bound: never lost, or never won")
    axes.set_yticks(places, [player["name"] for player in players])
    axes.set_ylim(len(players) - 0.5, -0.5)
    axes.set_xlabel("score: log-odds of winning against the mean player")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _ends(player: dict[str, Any]) -> tuple[float, float]:
    known = [each for each in (player["score"], *player["by_prompt"].values()) if each is not None]
    fair = player["at_equal_lengths"]
    known += [] if fair["extrapolated"] else [fair["score"]]
    return min(known), max(known)


def _draw_rates(figure: Figure, axes: Any, names: list[str], pairs: list[dict[str, Any]]) -> None:
    rates = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        if pair["rate"] is not None:
            a, b = names.index(pair["a"]), names.index(pair["b"])
            rates[a, b], rates[b, a] = pair["rate"], 1 - pair["rate"]
    # Orange loses and purple wins: two colours that colour-blind readers tell apart.
    image = axes.imshow(100 * rates, cmap="PuOr", vmin=0, vmax=100)
    axes.set_facecolor("#dddddd")  # of pairs that never met
    for row, column in np.argwhere(~np.isnan(rates)) if len(names) <= _MOST_NUMBERS else ():
        rate = rates[row, column]
        colour = "white" if abs(rate - 0.5) > 0.35 else "black"
        axes.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("wins of the row against the column, %", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8)
