"""A judge on the prompts of RewardBench and RewardBench 2."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from prl.data.rows.benchmark_records import BenchmarkRow
from prl.data.rows.records import prompt_key
from prl.evaluation.judge.rewardbench import TieScores, best_of_points, rewardbench_2_report, rewardbench_report
from prl.judge.annotated import debiased_logits
from prl.judge.base import PairwiseJudge
from prl.verdict import wins


def judge_rewardbench(judge: PairwiseJudge, rows: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """Compute the benchmark's averages of a judge, and beside them those of "longer is better".

    The benchmark defines its points by a score of each response. A judge of pairs has none, so here the debiased
    log-odds of two responses stand for the difference of their scores, which for a Bradley-Terry judge is what they
    are. In RewardBench the chosen response has to win, a tie counts one half. In RewardBench 2 it has to win against
    each rejected one; in the subset Ties a response's score is its mean log-odds against all responses to the prompt.

    Raises:
        ValueError: when the judge gives numbers that are not finite.
    """
    duels = [row for row in rows if row.tie is None]
    pairs = [(row.prompt, good, bad) for row in duels for good in row.chosen for bad in row.rejected]
    robins = [(row.prompt, (*row.chosen, *row.rejected)) for row in rows if row.tie is not None]
    meetings = [(prompt, *two) for prompt, texts in robins for two in combinations(texts, 2)]
    logits = debiased_logits(judge, *(list(column) for column in zip(*pairs, *meetings, strict=True)))
    lengths = np.array([len(a) - len(b) for _, a, b in (*pairs, *meetings)], dtype=float)
    report = _averages(rows, duels, logits)
    return {"version": rows[0].version, "num_rows": len(rows), **report, "longer": _averages(rows, duels, lengths)}


def _averages(rows: Sequence[BenchmarkRow], duels: Sequence[BenchmarkRow], margins: np.ndarray) -> dict[str, Any]:
    """Compute the averages from the margins of all pairs: first those of the duels, then those of the subset Ties."""
    subsets, prompts = [row.subset for row in duels], [prompt_key(row.prompt) for row in duels]
    if rows[0].version == 1:
        return rewardbench_report(wins(torch.from_numpy(margins)).numpy(), subsets, prompts)
    points, start = np.zeros(len(duels)), 0
    for n, row in enumerate(duels):
        points[n] = best_of_points(margins[start : start + len(row.rejected)])
        start += len(row.rejected)
    sides: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for row in rows:
        if row.tie is None:
            continue
        number = len(row.chosen) + len(row.rejected)
        scores = round_robin_scores(margins[start : start + number * (number - 1) // 2], number)
        start += number * (number - 1) // 2
        kind, name = row.tie
        sides.setdefault(name, {})[kind] = scores[: len(row.chosen)], scores[len(row.chosen) :]
    ties = [TieScores(each.get("tied"), each.get("ref")) for each in sides.values()]
    return rewardbench_2_report(points, subsets, prompts, ties)


def round_robin_scores(margins: np.ndarray, number: int) -> np.ndarray:
    """Compute each response's mean margin against all responses, itself included: [n (n - 1) / 2] -> [n].

    It is the least-squares scale of the margins. Where these are differences of scores, it is the scores less their
    mean.
    """
    matrix = np.zeros((number, number))
    upper = np.triu_indices(number, 1)
    matrix[upper] = margins
    return (matrix - matrix.T).mean(1)
