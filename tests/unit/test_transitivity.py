import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.data.records import PreferencePair
from prl.evaluation.transitivity import cyclic_triples
from prl.judge.examination import MAX_PROMPTS, cyclic_share
from tests.helpers.pairs import CircleJudge, GuessingJudge, QualityJudge
from tests.helpers.tiny import ConstantJudge, PlantedJudge


def antisymmetric(upper: dict[tuple[int, int], float], k: int) -> torch.Tensor:
    logits = torch.zeros(k, k)
    for (i, j), value in upper.items():
        logits[i, j], logits[j, i] = value, -value
    return logits


def test_a_circle_and_a_line() -> None:
    assert cyclic_triples(antisymmetric({(0, 1): 1, (1, 2): 1, (0, 2): -1}, 3)) == (1, 1)
    assert cyclic_triples(antisymmetric({(0, 1): 1, (1, 2): 1, (0, 2): 1}, 3)) == (0, 1)
    assert cyclic_triples(antisymmetric({(0, 1): 1, (1, 2): 1, (0, 2): 0}, 3)) == (0, 1)  # a draw breaks the circle


@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=15, max_size=15))
def test_counting_six_responses_one_triple_at_a_time(signs: list[float]) -> None:
    pairs = [(i, j) for i in range(6) for j in range(i)]
    logits = antisymmetric(dict(zip(pairs, signs, strict=True)), 6)
    by_hand = 0
    for i in range(6):
        for j in range(i):
            for k in range(j):
                circle = [logits[i, j] > 0, logits[j, k] > 0, logits[k, i] > 0]
                by_hand += all(circle) or not any(circle)
    assert cyclic_triples(logits) == (by_hand, 20)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=7))
def test_a_scalar_has_no_circles(scores: list[float]) -> None:
    values = torch.tensor(scores)
    assert cyclic_triples(values[:, None] - values[None])[0] == 0


class CoinJudge(PlantedJudge):
    """Tosses a coin for each pair of texts."""

    def rule(self, first: str, second: str) -> float:
        toss = random.Random("|".join(sorted((first, second)))).choice((-1.0, 1.0))
        return toss if first < second else -toss


def pairs_of(num_prompts: int) -> list[PreferencePair]:
    """Four responses to each prompt, in two pairs."""
    prompts = [[{"role": "user", "content": f"p{n}"}] for n in range(num_prompts)]
    texts = [[f"{n}:{'+' * q}{'x' * q}" for q in range(4)] for n in range(num_prompts)]
    return [
        PreferencePair(prompt, four[i], four[i + 1])
        for prompt, four in zip(prompts, texts, strict=True)
        for i in (0, 2)
    ]


def test_planted_judges() -> None:
    pairs = pairs_of(MAX_PROMPTS + 5)
    found = cyclic_share(QualityJudge(), pairs)
    assert found == {"mean": 0.0, "low": 0.0, "high": 0.0, "num": 4 * MAX_PROMPTS}
    assert cyclic_share(ConstantJudge(), pairs)["mean"] == 0.0
    assert cyclic_share(GuessingJudge(), pairs)["mean"] == 0.0  # a scalar, if a senseless one
    # Two of the eight ways to direct a triple; of 80 triples a standard error of 5 %.
    assert cyclic_share(CoinJudge(), pairs)["mean"] == pytest.approx(0.25, abs=0.15)


def test_rock_paper_scissors_is_detected() -> None:
    prompt = [{"role": "user", "content": "p"}]
    pairs = [PreferencePair(prompt, "a", "bb"), PreferencePair(prompt, "bb", "ccc")]
    assert cyclic_share(CircleJudge(), pairs) == {"mean": 1.0, "low": 1.0, "high": 1.0, "num": 1}


def test_two_responses_make_no_triple() -> None:
    prompts = [[{"role": "user", "content": name}] for name in "pq"]
    assert cyclic_share(CircleJudge(), [PreferencePair(prompt, "a", "bb") for prompt in prompts]) is None
