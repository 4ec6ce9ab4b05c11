"""Compare the policies of a study: true quality at equal KL, with intervals over judges crossed with seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import T_95, interval
from experiments.verdicts import verdict

BUDGETS = (0.1, 0.25, 0.5, 1.0)
"""KL to the start, nats a response, at which policies are compared."""
SHORT = 45
"""Iterations of a run that is not long."""


def quickstart_gold(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Measure the responses of a validation against the truth of the quickstart's world."""
    from prl.quickstart.world import gold_quality

    found = [gold_quality(row["prompt"][-1]["content"], row["response"].strip()) for row in rows]
    return {"gold": statistics.fmean(found)}


def trajectory(
    run: Path, figures: Callable[[list[dict[str, Any]]], dict[str, float]] = quickstart_gold
) -> list[dict[str, float]]:
    """Read the validations of a run: iteration, KL to the start in nats, and figures of the responses."""
    from prl.evaluation.policy.validation_log import ValidationLog

    files = ValidationLog(run)
    return [{"batch": line["batch"], "kl": line["kl"], **figures(files.rows(line["batch"]))} for line in files.read()]


def gold_at(points: list[dict[str, float]], budget: float) -> float | None:
    """Interpolate the quality where a run first passes a KL; None where it never does."""
    for before, after in zip(points, points[1:], strict=False):
        if before["kl"] <= budget < after["kl"]:
            share = (budget - before["kl"]) / (after["kl"] - before["kl"])
            return before["gold"] + share * (after["gold"] - before["gold"])
    return None


def crossed_interval(values: dict[tuple[int, int], float]) -> tuple[float, float]:
    """Compute the mean over runs of judges crossed with seeds, and half its 95 % interval.

    The interval is the wider one of two: over the means of judges, and over the means of seeds (Student's t). A judge
    is no repetition of another, and with few of them only a large effect passes.

    Args:
        values: value of each run, by judge and seed.

    Raises:
        ValueError: with fewer than two judges or two seeds.
    """
    halves = []
    for axis in (0, 1):
        groups = defaultdict(list)
        for key, value in values.items():
            groups[key[axis]].append(value)
        means = [statistics.fmean(some) for some in groups.values()]
        if len(means) < 2:
            raise ValueError(f"{len(means)} {('judge', 'seed')[axis]}; an interval needs two")
        quantile = T_95[max(runs for runs in T_95 if runs <= len(means))]
        halves.append(quantile * statistics.stdev(means) / math.sqrt(len(means)))
    return statistics.fmean(values.values()), max(halves)


def mean_and_half(values: dict[tuple[int, int], float]) -> tuple[float, float | None]:
    """Compute a mean over judges crossed with seeds, and half its interval; None with fewer than two of either."""
    try:
        return crossed_interval(values)
    except ValueError:
        return statistics.fmean(values.values()), None


def crossed(values: dict[tuple[int, int], float]) -> str:
    """Write a mean over judges crossed with seeds, with its interval where there are two of both."""
    mean, half = mean_and_half(values)
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def _by_run(lines: list[dict[str, Any]], name: str) -> dict[tuple[int, int], dict[str, Any]]:
    own = [line for line in lines if line["variant"].partition(" | ")[0] == name and "long" not in line["variant"]]
    return {(line["judge"], line["seed"]): line for line in own}


def _cell(values: dict[tuple[int, int], float | None], expected: int) -> str:
    found = {key: value for key, value in values.items() if value is not None}
    if len(found) < expected:
        return f"{len(found)} of {expected} runs" if found else "not reached"
    return crossed(found)


def policy_tables(lines: list[dict[str, Any]], arms: list[str]) -> str:
    """Write the table of all arms, the differences of the first to each other one, and that of long runs."""
    rows = []
    for name in arms:
        if not (runs := _by_run(lines, name)):
            continue
        cells = [_cell({key: line["gold"] for key, line in runs.items()}, len(runs))]
        cells.append(_cell({key: line["points"][-1]["kl"] for key, line in runs.items()}, len(runs)))
        cells += [_cell({key: gold_at(line["points"], b) for key, line in runs.items()}, len(runs)) for b in BUDGETS]
        seconds = statistics.fmean(line["cpu_seconds"] for line in runs.values())
        coef = next(iter(runs.values()))["coef"]
        rows.append(f"| {name} | {coef} | {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |")
    titles = ["method", "KL weight", "runs", "gold, last", "KL, last", *(f"gold at KL {b}" for b in BUDGETS), "seconds"]
    head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*head, *rows, "", *difference_table(lines, arms[0], arms[1:]), "", *_long_table(lines)])


def differences(
    lines: list[dict[str, Any]], first: str, others: Sequence[str]
) -> dict[str, dict[tuple[int, int], float]]:
    """Compute by how much an arm ends better than others, by judge and seed of the runs that both have."""
    own, found = _by_run(lines, first), {}
    for name in others:
        runs = _by_run(lines, name)
        if common := {key: own[key]["gold"] - runs[key]["gold"] for key in runs.keys() & own.keys()}:
            found[name] = common
    return found


def difference_table(lines: list[dict[str, Any]], first: str, others: Sequence[str]) -> list[str]:
    """Write by how much an arm ends better than others, in runs of the same judge and seed."""
    rows = [f"| {name} | {_difference(common)} |" for name, common in differences(lines, first, others).items()]
    return [f"| {first} against | difference in gold, last |", "|---|---|", *rows]


def _difference(values: dict[tuple[int, int], float]) -> str:
    mean, half = mean_and_half(values)
    return f"{mean:+.3f}" if half is None else f"{mean:+.3f} ± {half:.3f}, {verdict(mean, half, higher_is_better=True)}"


def _long_table(lines: list[dict[str, Any]]) -> list[str]:
    """Write the quality of long runs: at their best validation, what the last has lost since, and on the way."""
    long = [line for line in lines if "long" in line["variant"]]
    by_name = defaultdict(list)
    for line in long:
        by_name[line["variant"].partition(" | ")[0]].append({point["batch"]: point["gold"] for point in line["points"]})
    shown = [SHORT * n for n in range(1, 5)]
    titles = ["long runs", "runs", "best", "lost since", *(f"gold after {n}" for n in shown)]
    found = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, runs in by_name.items():
        best = [max(points.values()) for points in runs]
        lost = [most - points[shown[-1]] for most, points in zip(best, runs, strict=True)]
        cells = [interval(some) for some in (best, lost, *([points[n] for points in runs] for n in shown))]
        found.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return found if long else []
