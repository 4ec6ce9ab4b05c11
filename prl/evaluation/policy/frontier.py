"""Frontier of win rate against KL over a policy's validations, and the checkpoint worth shipping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MEASURES = {
    "win_rate_heldout_lc": "held-out judge, length-controlled",
    "win_rate_lc": "training judge, length-controlled",
    "win_rate": "training judge",
}
"""Win rates that a frontier may show, the most trustworthy first."""
EXTRAPOLATED = "extrapolated"
"""Key of a validation: whether its responses are all shorter, or all longer, than the anchors."""


@dataclass(frozen=True)
class Point:
    """One validation."""

    batch: int
    kl_sqrt: float
    rate: float
    low: float
    high: float
    alarmed: bool = False
    """Whether the alarm of the gap between the judges was raised by this validation."""
    plain: float | None = None
    """Of a length-controlled rate, which is a win probability: the one at the responses' own lengths, same judge."""
    extrapolated: bool = False
    """Whether the rate is one at equal lengths although every response was shorter, or every one longer."""


def common_measure(lines: Sequence[Mapping[str, Any]]) -> str:
    """Choose the most trustworthy win rate that all validations have.

    Raises:
        ValueError: when the validations share no win rate.
    """
    for name in MEASURES:
        if all(name in line for line in lines):
            return name
    raise ValueError(f"the validations share none of the win rates {', '.join(MEASURES)}")


def run_points(lines: Sequence[Mapping[str, Any]], measure: str | None = None) -> list[Point]:
    """Build the points of a run in the order of training, by a measure; by the best common measure when None."""
    name = measure or common_measure(lines)
    controlled = name.endswith("_lc")
    keys = ("batch", "kl_sqrt", name, f"{name}_lo", f"{name}_hi")
    first = min((line["batch"] for line in lines if line.get("goodhart_alarm")), default=None)
    return [
        replace(
            Point(*(line[key] for key in keys)),
            alarmed=first is not None and line["batch"] >= first,
            plain=line.get(name.removesuffix("_lc").replace("win_rate", "win_prob")) if controlled else None,
            extrapolated=is_extrapolated(name, line),
        )
        for line in lines
        if None not in [line.get(key) for key in keys]
    ]


def is_extrapolated(measure: str, line: Mapping[str, Any]) -> bool:
    """Return whether the win rate of a validation is one at equal lengths, and these were not among its comparisons."""
    return measure.endswith("_lc") and bool(line.get(EXTRAPOLATED))


def beyond_equal_lengths(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all responses of some comparisons are shorter than their anchors, or all are longer.

    A length-controlled rate is then an extrapolation: it is fitted at lengths of which there is no comparison.
    """
    differences = [len(row["response"].strip()) - len(row["anchor"].strip()) for row in rows]
    return bool(differences) and (max(differences) < 0 or min(differences) > 0)


def best_checkpoint(runs: Mapping[str, Sequence[Point]]) -> tuple[str, Point]:
    """Choose the run and validation with the highest lower bound of the win rate; among equal ones, the smallest KL.

    The lower bound is used because among many validations the highest rate is the luckiest. Validations from a run's
    first alarm of the gap between the judges on are left out: a later rise may exploit the judges. When every
    validation comes after an alarm, all of them count. An extrapolated rate never counts.

    Raises:
        ValueError: when there is no validation whose rate is more than an extrapolation.
    """
    every = [(name, point) for name, points in runs.items() for point in points if not point.extrapolated]
    if not every:
        raise ValueError("no validation to choose from")
    sound = [found for found in every if not found[1].alarmed]
    return min(sound or every, key=lambda found: (-found[1].low, found[1].kl_sqrt))


def knee(points: Sequence[Point]) -> Point | None:
    """Find where more KL starts to buy less: the point highest above the line from the smallest KL to the highest rate.

    None where nothing bends: fewer than three points up to the highest rate, or none above the line. Extrapolated
    rates do not count.
    """
    ordered = sorted((point for point in points if not point.extrapolated), key=lambda point: point.kl_sqrt)
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
