"""Judges of known rules on the prompts of RewardBench and RewardBench 2."""

import numpy as np
import pytest

from prl.data.rows.benchmark_records import BenchmarkRow
from prl.judge.benchmark import judge_rewardbench, round_robin_scores
from tests.helpers.pairs import CircleJudge, QualityJudge
from tests.helpers.tiny import ConstantJudge


def benchmark(rows: list[dict]) -> list[BenchmarkRow]:
    return [record for row in rows for record in BenchmarkRow.parse(row)]


def test_rewardbench() -> None:
    texts = [("++", "+"), ("+", "++"), ("++", "+x+"), ("+++", "x" * 9)]
    rows = [
        {"prompt": p, "chosen": good, "rejected": bad, "subset": "hep-go"}
        for p, (good, bad) in zip("abcd", texts, strict=True)
    ]
    found = judge_rewardbench(QualityJudge(bias=5.0), benchmark(rows))
    assert found["version"] == 1
    assert found["subsets"]["hep-go"]["mean"] == (1 + 0 + 0.5 + 1) / 4  # a tie is half a point; places cancel
    assert found["longer"]["subsets"]["hep-go"]["mean"] == 1 / 4


def of_lists(subset: str, chosen: list[str], rejected: list[str], name: str = "0", prompt: str = "p") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "subset": subset, "id": name}


def test_best_of_four() -> None:
    rows = [
        of_lists("Math", ["+++"], ["+", "++", "x"], prompt="a"),
        of_lists("Math", ["++"], ["+", "+++", "x"], prompt="b"),
        of_lists("Math", ["++"], ["+", "++x", "x++"], prompt="c"),
    ]
    found = judge_rewardbench(QualityJudge(), benchmark(rows))
    assert found["version"] == 2
    assert found["subsets"]["Math"]["mean"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert judge_rewardbench(ConstantJudge(), benchmark(rows))["subsets"]["Math"]["mean"] == 1 / 4


def test_the_subset_ties_of_a_judge_of_pairs() -> None:
    """With differences of scores the points are those of the scores: gaps 2 and 3, spread 1."""
    rows = [
        of_lists("Ties", ["++++", "+++"], ["+", "x"], "tied:3", "a"),
        of_lists("Ties", ["++++"], ["+", "x", "x+"], "ref:3", "b"),
    ]
    found = judge_rewardbench(QualityJudge(bias=2.0), benchmark(rows))["subsets"]["Ties"]
    assert found["mean"] == pytest.approx(1 + 0.01 * np.tanh(2 - 1))
    # A judge that goes round in a circle has no such scale; its mean margins are what counts.
    assert judge_rewardbench(CircleJudge(), benchmark(rows))["subsets"]["Ties"]["mean"] < 1


def test_scores_of_a_round_robin() -> None:
    scores = np.random.default_rng(0).normal(size=7)
    upper = np.triu_indices(7, 1)
    found = round_robin_scores((scores[:, None] - scores[None, :])[upper], 7)
    assert found == pytest.approx(scores - scores.mean())
    # The least-squares scale of any margins, by numpy's own solver.
    margins = np.random.default_rng(1).normal(size=21)
    design = np.zeros((22, 7))
    design[np.arange(21), upper[0]], design[np.arange(21), upper[1]], design[21] = 1, -1, 1
    expected, *_ = np.linalg.lstsq(design, np.append(margins, 0.0), rcond=None)
    assert round_robin_scores(margins, 7) == pytest.approx(expected)
