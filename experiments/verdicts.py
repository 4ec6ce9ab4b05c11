"""Tables of a study, and what it says of a claim by the rule that its protocol fixes."""

import statistics
from collections.abc import Collection
from itertools import combinations
from typing import Any

from benchmarks.runs import T_95, table

FIGURES = {
    "accuracy": ("accuracy", 3),
    "nll": ("nll", 3),
    "ece": ("ece", 3),
    "ece_after_temperature": ("ece, tempered", 3),
    "order_gap": ("order gap", 3),
    "seconds": ("CPU seconds", 0),
}
ORDERS = {
    "order": ("order of two samples", 3),
    "order_hard": ("of hard prompts", 3),
    "winner": ("sample or anchor", 3),
    "sample_better": ("sample is better", 3),
    "anchor_gold": ("gold of the anchor", 3),
}
HIGHER_IS_BETTER = {
    "accuracy": True,
    "nll": False,
    "ece": False,
    "nll_after_temperature": False,
    "ece_after_temperature": False,
}


def paired_difference(one: list[dict[str, Any]], other: list[dict[str, Any]], figure: str) -> tuple[float, float]:
    """Compute the mean difference of two arms over the seeds that both have, and half its 95 % interval (Student's t).

    Two arms of one seed learnt from the same pairs, so the luck of the pairs is in both and cancels.

    Raises:
        ValueError: with fewer than two seeds in common.
    """
    of_other = {line["seed"]: line[figure] for line in other}
    found = [line[figure] - of_other[line["seed"]] for line in one if line["seed"] in of_other]
    if len(found) < 2:
        raise ValueError(f"{len(found)} seeds in common; an interval over seeds needs two")
    quantile = T_95[max(runs for runs in T_95 if runs <= len(found))]
    return statistics.fmean(found), quantile * statistics.stdev(found) / len(found) ** 0.5


def verdict(difference: float, half: float, *, higher_is_better: bool) -> str:
    """Say whether a difference supports that the first arm is better: supported, contradicted, or open."""
    gain = difference if higher_is_better else -difference
    return "supported" if gain > half else "contradicted" if gain < -half else "open"


def judge_tables(lines: list[dict[str, Any]], cells: list[str], arms: list[str]) -> str:
    """Write a table for each cell, then the differences of the first two arms to those behind them, as Markdown."""
    parts, rows = [], []
    for cell in cells:
        own = {arm: [line for line in lines if line["variant"] == f"{cell}: {arm}"] for arm in arms}
        shown = [{**line, "variant": arm} for arm, some in own.items() for line in some]
        if shown:
            parts.append(f"### {cell}\n\n{table(shown, 'judge', FIGURES)}")
        for one, other in combinations(arms, 2):
            if one in arms[:2] and min(len(own[one]), len(own[other])) > 1:
                rows.append(f"| {cell} | {one} | {other} | {' | '.join(_cells(own[one], own[other]))} |")
    names = [name.replace("_after_temperature", ", tempered") for name in HIGHER_IS_BETTER]
    head = f"| cell | judge | against | {' | '.join(names)} |"
    parts.append("\n".join([f"### Differences\n\n{head}", "|---" * (3 + len(names)) + "|", *rows]))
    return "\n\n".join(parts)


def _cells(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[str]:
    found = []
    for figure, higher in HIGHER_IS_BETTER.items():
        difference, half = paired_difference(one, other, figure)
        found.append(f"{difference:+.3f} ± {half:.3f}, {verdict(difference, half, higher_is_better=higher)}")
    return found


def every_run(lines: list[dict[str, Any]], figure: str) -> str:
    """Write one figure of every run, variants down in the order of their names and seeds across, as Markdown."""
    seeds = sorted({line["seed"] for line in lines})
    found: dict[str, dict[int, str]] = {}
    for line in lines:
        found.setdefault(line["variant"].replace(" | ", ", "), {})[line["seed"]] = f"{line[figure]:.3f}"
    titles = [f"{figure} of every run", *(f"seed {seed}" for seed in seeds)]
    rows = [f"| {name} | {' | '.join(own.get(seed, '') for seed in seeds)} |" for name, own in sorted(found.items())]
    return "\n".join([f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *rows])


def search_table(lines: list[dict[str, Any]], figure: str, names: Collection[str] | None = None) -> str:
    """Write what each setting of a search reached, as Markdown: one row an arm, settings in the order of their size.

    Args:
        lines: of the search.
        figure: by which settings were compared.
        names: of the arms to write; all if None.
    """
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        name, _, setting = line["variant"].rpartition(" ")
        name = name.removeprefix("tuning ")
        if names is None or name in names:
            found.setdefault(name, {})[float(setting)] = line[figure]
    rows = [
        f"| {name} | {', '.join(f'{value:.3f} at {setting:g}' for setting, value in sorted(own.items()))} |"
        for name, own in found.items()
    ]
    return "\n".join([f"| search | {figure} at each setting |", "|---|---|", *rows])


def anchor_tables(lines: list[dict[str, Any]], judges: list[str], anchors: list[str]) -> str:
    """Write the figures of each judge with each anchor, then what anchors change, and what the first judge is ahead."""
    own = {name: [line for line in lines if line["variant"] == name] for j in judges for name in _names(j, anchors)}
    compared = [(name, _names(judges[0], anchors)[0]) for name in _names(judges[0], anchors)[1:]]
    compared += list(zip(_names(judges[0], anchors), _names(judges[1], anchors), strict=True))
    rows = []
    for one, other in compared:
        if min(len(own[one]), len(own[other])) > 1:
            found = [paired_difference(own[one], own[other], figure) for figure in ("order", "order_hard")]
            cells = [f"{d:+.3f} ± {half:.3f}, {verdict(d, half, higher_is_better=True)}" for d, half in found]
            rows.append(f"| {one.replace(' | ', ', ')} | {other.replace(' | ', ', ')} | {' | '.join(cells)} |")
    shown = [{**line, "variant": name.replace(" | ", ", ")} for name, some in own.items() for line in some]
    head = ["| order of two samples by | against | all prompts | hard prompts |", "|---" * 4 + "|"]
    return "\n".join([table(shown, "judge, anchor", ORDERS), "", *head, *rows])


def _names(judge: str, anchors: list[str]) -> list[str]:
    return [f"{judge} | {kind}" for kind in anchors]
