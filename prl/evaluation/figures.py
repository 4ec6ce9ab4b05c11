"""Figures of a judge on labelled pairs (docs/metrics.md), in matplotlib without pyplot's global state."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from prl.evaluation.judge.calibration import NUM_BINS, best_temperature, calibration_error, reliability_bins
from prl.evaluation.judge.report import LENGTH_MATCHED, JudgedPairs, estimate
from prl.verdict import has_winner, wins

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
"""Colours that colour-blind readers tell apart (Okabe and Ito)."""
LENGTH_EDGES = (-1.0, -0.5, -0.25, -LENGTH_MATCHED, LENGTH_MATCHED, 0.25, 0.5, 1.0)
"""Bins of the length difference, better minus worse, as a share of the longer response; the middle one is "matched"."""
TAGS = ("calibration/reliability", "val/margins", "val/orders", "val/accuracy_by_length")
"""TensorBoard tags of the figures."""


def judge_figures(pairs: JudgedPairs) -> dict[str, Figure]:
    """Draw the figures of N pairs by TensorBoard tag; the better response may stand on either side."""
    pairs = pairs.better_first()
    drawn = (reliability_diagram, margin_histogram, order_scatter, accuracy_by_length)
    return {tag: draw(pairs) for tag, draw in zip(TAGS, drawn, strict=True)}


def _axes(rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 5.2), dpi=100)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.9, bottom=0.12)
    return figure, figure.subplots(rows, **options)


def reliability_diagram(pairs: JudgedPairs) -> Figure:
    """Plot observed against stated probabilities, in bins with counts, before and after the fitted temperature."""
    figure, (top, bottom) = _axes(2, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.08})
    win, targets = pairs.verdict.win_logit.double().cpu(), pairs.targets.double().cpu()
    decided = has_winner(targets)
    temperature = best_temperature(win, targets)
    top.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="calibrated")
    shown = (("as stated", 1.0, BLUE, "o", -0.2), (f"temperature {temperature:.2f}", temperature, ORANGE, "s", 0.2))
    for name, scale, colour, marker, shift in shown if decided.any() else ():
        prob = (win / scale).sigmoid()[decided]
        counts, stated, happened = reliability_bins(prob, targets[decided])
        label = f"{name}: calibration error {calibration_error(prob, targets[decided]):.3f}"
        some = counts > 0  # a line through the bins that have readings
        top.plot(stated[some], happened[some], color=colour, marker=marker, markersize=5, label=label)
        centres = (np.arange(NUM_BINS) + 0.5 + shift) / NUM_BINS
        bottom.bar(centres, counts, width=0.4 / NUM_BINS, color=colour)
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share in which it was better")
    top.set_title(f"Reliability, {int(decided.sum())} pairs, each in both directions")
    top.legend(loc="upper left", fontsize=9)
    bottom.set(xlabel="stated probability that a response is better", ylabel="readings")
    return figure


def margin_histogram(pairs: JudgedPairs) -> Figure:
    """Plot the debiased margin of the better response over the worse one; pairs above zero are judged correctly."""
    figure, axes = _axes()
    win, targets = pairs.verdict.win_logit.double().cpu().numpy(), pairs.targets.cpu().numpy()
    margins, ties = win[targets != 0.5], win[targets == 0.5]
    edge = float(np.abs(win).max()) or 1.0
    edges = np.linspace(-edge, edge, 41)  # zero is an edge, so that no bar is half right
    right, undecided = (margins > 0).sum(), (margins == 0).sum()
    wrong = len(margins) - right - undecided
    for name, part, number, colour in (
        ("right", margins[margins > 0], right, GREEN),
        ("wrong", margins[margins < 0], wrong, RED),
    ):
        axes.hist(part, bins=edges, color=colour, label=f"{name}: {number}")
    if undecided:
        axes.plot([], [], " ", label=f"no opinion: {undecided}")
    if len(ties):
        axes.hist(ties, bins=edges, histtype="step", color=GREY, label=f"ties of the label: {len(ties)}")
    axes.axvline(0, color="black", linewidth=1)
    if len(margins):
        axes.axvline(margins.mean(), color=BLUE, linestyle="--", label=f"mean: {margins.mean():.2f}")
    axes.set(xlabel="debiased margin, better minus worse response (log-odds)", ylabel="pairs", xlim=(-edge, edge))
    axes.set_title(f"Margins, {len(win)} pairs")
    axes.legend(fontsize=9)
    return figure


def order_scatter(pairs: JudgedPairs) -> Figure:
    """Plot the probability of the better response in each order; on the diagonal the order does not matter."""
    figure, axes = _axes()
    first = torch.sigmoid(pairs.verdict.margin_ab.double()).cpu().numpy()
    second = torch.sigmoid(-pairs.verdict.margin_ba.double()).cpu().numpy()
    flipped, right = pairs.verdict.flipped.cpu().numpy(), pairs.verdict.win_logit.cpu().numpy() > 0
    decided = has_winner(pairs.targets).cpu().numpy()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="the order does not matter")
    for name, part, colour in (
        ("right in both orders", ~flipped & decided & right, GREEN),
        ("right in neither", ~flipped & decided & ~right, RED),
        ("flipped by the order", flipped, BLUE),
        ("ties of the label", ~flipped & ~decided, GREY),
    ):
        if part.any():
            label = f"{name}: {part.sum()}"
            axes.scatter(first[part], second[part], s=10, alpha=0.5, linewidths=0, color=colour, label=label)
    axes.axhline(0.5, color=GREY, linewidth=0.5)
    axes.axvline(0.5, color=GREY, linewidth=0.5)
    gap = float(pairs.verdict.order_gap.double().mean())
    axes.set_title(f"Orders, {len(first)} pairs, mean order gap {gap:.3f}")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel="p(better wins), better shown first", ylabel="p(better wins), better shown second")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, columnspacing=1, frameon=False)
    figure.subplots_adjust(bottom=0.22)
    return figure


def accuracy_by_length(pairs: JudgedPairs) -> Figure:
    """Plot accuracy in bins of the length difference, with 95 % intervals over prompts and the number of pairs."""
    figure, axes = _axes()
    decided = has_winner(pairs.targets).cpu()
    better, worse = pairs.lengths.double().cpu().T
    difference = (better - worse) / torch.maximum(better, worse).clamp(min=1)
    right, middle = wins(pairs.verdict.win_logit.double().cpu()), LENGTH_EDGES.index(LENGTH_MATCHED) - 1
    names = []
    for number, (low, high) in enumerate(zip(LENGTH_EDGES, LENGTH_EDGES[1:], strict=False)):
        # An edge belongs to the bin nearer to zero: "matched" includes both of its edges, as in the report.
        above = difference >= low if number <= middle else difference > low
        below = difference < high if number < middle else difference <= high
        found = estimate(right, decided & above & below, pairs.prompts)
        names.append(f"{100 * low:+.0f} to\n{100 * high:+.0f} %\nn = {found['num'] if found else 0}")
        if found:
            mean, error = found["mean"], [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
            axes.errorbar(number, mean, yerr=error, color=BLUE, marker="o", capsize=4)
    if decided.any():
        mean = float(right[decided].mean())
        axes.axhline(mean, color=ORANGE, linestyle="--", label=f"all pairs: {mean:.3f}")
    axes.axhline(0.5, color=GREY, linestyle=":", label="a coin")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(-0.02, 1.02), xlim=(-0.5, len(names) - 0.5), ylabel="accuracy")
    axes.set_xlabel("length of the better response minus the worse one, share of the longer")
    axes.set_title("Accuracy by length difference; left: the shorter one is better")
    axes.legend(fontsize=9, loc="lower right")
    figure.subplots_adjust(bottom=0.2)
    return figure
