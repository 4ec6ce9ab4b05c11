"""Alarms on the signals of validations: their limits, how late they come, and how often without a cause.

A run is over-optimised from the validation with its best true quality on, smoothed over SMOOTH validations, if by its
end the smoothed quality lies at least LOSS lower; it is healthy before, and healthy throughout otherwise. An alarm is a
validation whose signal lies above its limit.
"""

import statistics
from collections.abc import Callable
from typing import Any

SMOOTH, LOSS = 3, 0.03
FALSE_PER_100 = 1.0
"""False alarms per 100 healthy iterations that a limit may give on the runs that it is chosen on."""
Point = dict[str, float]
Signal = Callable[[list[Point]], list[float]]
"""Points of a run -> the signal at each of them, from what was known by then; higher is worse."""


def rise(name: str) -> Signal:
    """Make the signal "this number has risen since the first validation"."""
    return lambda points: [point[name] - points[0][name] for point in points]


def fall(name: str) -> Signal:
    """Make the signal "this number has fallen since its best validation so far"."""

    def of(points: list[Point]) -> list[float]:
        best, found = -float("inf"), []
        for point in points:
            best = max(best, point[name])
            found.append(best - point[name])
        return found

    return of


def change(name: str) -> Signal:
    """Make the signal "this number has changed since the first validation, as a share of it"."""
    return lambda points: [abs(point[name] / points[0][name] - 1) for point in points]


def level(name: str) -> Signal:
    """Make the signal "this number is high"."""
    return lambda points: [point[name] for point in points]


SIGNALS: dict[str, Signal] = {
    "reward above a limit": level("win_rate"),
    "gap between judges, lower bound": level("goodhart_gap_lo"),
    "gap between judges": level("goodhart_gap"),
    "held-out win rate falls": fall("win_rate_heldout"),
    "KL above a limit": level("kl"),
    "length drifts": change("length"),
    "order gap rises": rise("order_gap"),
}


def onset(points: list[Point]) -> int | None:
    """Return the number of the validation from which on a run is over-optimised; None where it stays healthy."""
    gold = [point["gold"] for point in points]
    smooth = [statistics.fmean(gold[max(0, n - SMOOTH + 1) : n + 1]) for n in range(len(gold))]
    best = max(range(len(smooth)), key=smooth.__getitem__)
    return best if smooth[best] - smooth[-1] >= LOSS else None


def counts(runs: list[list[Point]], signal: Signal, limit: float) -> dict[str, Any]:
    """Count what an alarm with this limit does on some runs.

    Returns:
        `delays`: of the over-optimised runs with an alarm from the onset on, iterations until the first one.
        `missed`: over-optimised runs without one. `false`: alarms before an onset, or in a run without. `healthy`:
        iterations in which an alarm would be false.
    """
    found: dict[str, Any] = {"delays": [], "missed": 0, "false": 0, "healthy": 0.0}
    for points in runs:
        values, start = signal(points), onset(points)
        end = len(points) if start is None else start
        found["false"] += sum(value > limit for value in values[:end])
        found["healthy"] += points[min(end, len(points) - 1)]["batch"] - points[0]["batch"]
        if start is not None:
            late = [points[n]["batch"] - points[start]["batch"] for n in range(start, len(points)) if values[n] > limit]
            found["delays"] += late[:1]
            found["missed"] += not late
    return found


def chosen_limit(runs: list[list[Point]], signal: Signal) -> float:
    """Choose the lowest limit that gives at most FALSE_PER_100 false alarms per 100 healthy iterations."""
    for limit in sorted({value for points in runs for value in signal(points)}):
        found = counts(runs, signal, limit)
        if 100 * found["false"] <= FALSE_PER_100 * found["healthy"]:
            return limit
    raise AssertionError("above the largest value of a signal no alarm is left")


def alarm_table(lines: list[dict[str, Any]]) -> str:
    """Write what each signal does; the limits for the runs of a judge are chosen on those of all other judges."""
    judges = sorted({line["judge"] for line in lines})
    by_judge = {judge: [line["points"] for line in lines if line["judge"] == judge] for judge in judges}
    sick = sum(onset(line["points"]) is not None for line in lines)
    rows = [f"{len(lines)} runs, {sick} of them over-optimised", ""]
    rows += ["| signal | limits | detected | delay, median (worst) | false per 100 iterations |", "|---" * 5 + "|"]
    for name, signal in SIGNALS.items():
        found: dict[str, Any] = {"delays": [], "missed": 0, "false": 0, "healthy": 0.0}
        limits = []
        for judge in judges if len(judges) > 1 else ():
            others = [points for other in judges if other != judge for points in by_judge[other]]
            limits.append(chosen_limit(others, signal))
            own = counts(by_judge[judge], signal, limits[-1])
            found = {key: found[key] + own[key] for key in found}
        delays, total = found["delays"], len(found["delays"]) + found["missed"]
        told = f"{statistics.median(delays):.0f} ({max(delays):.0f})" if delays else ""
        rate = f"{100 * found['false'] / found['healthy']:.2f}" if found["healthy"] else ""
        shown = ", ".join(f"{limit:.3f}" for limit in limits)
        rows.append(f"| {name} | {shown} | {len(delays)} of {total} | {told} | {rate} |")
    return "\n".join(rows)
