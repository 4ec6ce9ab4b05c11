import math
import random
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import kendall_rank_corrcoef

from prl.data.rows.records import PreferencePair
from prl.evaluation.judge.transitivity import (
    RoundRobin,
    anchor_agreement,
    best_chosen,
    cyclic_triples,
    scale_deviance,
    transitivity_report,
)
from prl.judge import PairwiseJudge
from prl.judge.examination import MAX_PROMPTS, round_robins
from tests.helpers.pairs import CircleJudge, GuessingJudge, QualityJudge, RingJudge
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


def report(judge: PairwiseJudge, pairs: list[PreferencePair]) -> dict[str, Any]:
    return transitivity_report(round_robins(judge, pairs))


def test_planted_judges() -> None:
    pairs = pairs_of(MAX_PROMPTS + 5)
    found = report(QualityJudge(), pairs)
    assert found["cyclic_triples"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "num": 4 * MAX_PROMPTS}
    assert found["anchor_tau"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "num": MAX_PROMPTS}
    guess = report(GuessingJudge(), pairs)  # a scalar, if a senseless one
    assert guess["cyclic_triples"]["mean"] == 0.0
    for scalar in (found, guess):
        assert scalar["scale_fit"]["low"] == pytest.approx(1, abs=1e-9)
    constant = report(ConstantJudge(), pairs)
    assert constant["cyclic_triples"]["mean"] == 0.0
    assert constant["scale_fit"] is constant["anchor_tau"] is None  # there is nothing to explain and nothing to order
    coin = report(CoinJudge(), pairs)
    # Two of the eight ways to direct a triple; of 80 triples a standard error of 5 %.
    assert coin["cyclic_triples"]["mean"] == pytest.approx(0.25, abs=0.15)
    assert coin["scale_fit"]["high"] < 0.8


def test_rock_paper_scissors_is_detected() -> None:
    prompt = [{"role": "user", "content": "p"}]
    pairs = [PreferencePair(prompt, "a", "bb"), PreferencePair(prompt, "bb", "ccc")]
    found = report(CircleJudge(), pairs)
    assert found["cyclic_triples"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "num": 1}
    assert found["scale_fit"]["mean"] == pytest.approx(0, abs=1e-9)  # all three are as good as each other
    assert found["anchor_tau"] is None  # two anchors leave one response, which needs no order


def test_two_responses_make_no_triple() -> None:
    prompts = [[{"role": "user", "content": name}] for name in "pq"]
    found = report(CircleJudge(), [PreferencePair(prompt, "a", "bb") for prompt in prompts])
    assert set(found.values()) == {None}


def test_a_ring_is_no_scale() -> None:
    """Five responses of which each beats the next two: half of the triples are circles, and all score the same."""
    prompts = [[{"role": "user", "content": f"p{n}"}] for n in range(4)]
    texts = ["+" * q + "." for q in range(5)]
    pairs = [PreferencePair(prompt, u, v) for prompt in prompts for u, v in zip(texts, texts[1:], strict=False)]
    found = report(RingJudge(5), pairs)
    assert found["cyclic_triples"]["mean"] == 0.5
    assert found["scale_fit"]["mean"] == pytest.approx(0, abs=1e-9)
    assert found["anchor_tau"]["high"] < 0
    honest = report(QualityJudge(), pairs)
    assert (honest["cyclic_triples"]["mean"], honest["anchor_tau"]["mean"]) == (0.0, 1.0)


# ---- the scale


@given(st.lists(st.floats(-4, 4), min_size=3, max_size=5), st.integers(0, 2**16))
@settings(max_examples=40)
def test_no_other_scale_fits_better(scores: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(scores, dtype=torch.float64)
    noise = torch.randn(len(scores), len(scores), generator=generator, dtype=torch.float64).triu(1)
    logits = values[:, None] - values[None] + noise - noise.T
    rest, coin = scale_deviance(logits)
    i, j = torch.triu_indices(len(scores), len(scores), offset=1)

    def divergence(scale: torch.Tensor) -> float:
        stated, fitted = torch.distributions.Bernoulli(logits=logits[i, j]), scale[i] - scale[j]
        return float(torch.distributions.kl_divergence(stated, torch.distributions.Bernoulli(logits=fitted)).sum())

    assert coin == pytest.approx(divergence(torch.zeros_like(values)), abs=1e-9)
    for _ in range(5):
        assert rest <= divergence(values + 0.3 * torch.randn(len(scores), generator=generator)) + 1e-9
    assert rest <= divergence(logits.mean(1)) + 1e-9


def test_verdicts_that_are_transitive_but_do_not_add_up() -> None:
    # a beats b and b beats c by little, and a beats c by less than both: an order, but no scale
    logits = antisymmetric({(0, 1): 2.0, (1, 2): 2.0, (0, 2): 0.5}, 3)
    assert cyclic_triples(logits)[0] == 0
    rest, coin = scale_deviance(logits)
    assert 0.1 < rest / coin < 0.9


# ---- two anchors


def test_two_anchors_that_disagree() -> None:
    # Anchor 0 says 2 > 3 and anchor 1 says 3 > 2; no other two anchors both see a difference in what they leave.
    disagreeing = antisymmetric({(2, 0): 2.0, (3, 0): 1.0, (2, 1): 1.0, (3, 1): 2.0, (0, 1): 1.0, (2, 3): 1.0}, 4)
    agreeing = antisymmetric({(2, 0): 2.0, (3, 0): 1.0, (2, 1): 2.0, (3, 1): 1.0, (0, 1): 1.0, (2, 3): 1.0}, 4)
    assert anchor_agreement(disagreeing) < anchor_agreement(agreeing)
    assert anchor_agreement(antisymmetric({}, 5)) is None
    assert anchor_agreement(antisymmetric({(0, 1): 1.0}, 3)) is None


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=10, max_size=10))
@settings(max_examples=25)
def test_agreement_of_anchors_is_kendalls_tau(values: list[float]) -> None:
    logits = antisymmetric(dict(zip(combinations(range(5), 2), values, strict=True)), 5)
    taus = []
    for one, other in combinations(range(5), 2):
        rest = [row for row in range(5) if row not in (one, other)]
        tau = kendall_rank_corrcoef(logits[rest, one], logits[rest, other]).item()
        taus += [] if math.isnan(tau) else [tau]
    assert anchor_agreement(logits) == (pytest.approx(sum(taus) / len(taus), abs=1e-6) if taus else None)


# ---- the best of n


def test_the_favourite_and_the_label() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64)
    logits = scores[:, None] - scores[None]
    assert [best_chosen(RoundRobin(logits, best)) for best in (0, 1, 2, None)] == [0.0, 1.0, 0.0, None]
    assert best_chosen(RoundRobin(torch.zeros(4, 4, dtype=torch.float64), 2)) == 0.25


def ranked(prompt: str, texts: list[str]) -> list[PreferencePair]:
    """Every pair of a list that is ordered from the best."""
    messages = [{"role": "user", "content": prompt}]
    return [PreferencePair(messages, u, v) for u, v in combinations(texts, 2)]


def test_best_of_n_needs_a_best_label() -> None:
    good = ranked("p", ["+++", "++", "+"])
    found = report(QualityJudge(), [*good, *ranked("q", ["+", "++", "+++", "++++"])])
    assert (found["best_of_n"]["mean"], found["best_of_n"]["num"]) == (0.5, 2)
    assert found["baseline_best_of_n"]["mean"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert report(QualityJudge(), good[1:])["best_of_n"] is None  # the first two were never compared
    tied = [PreferencePair(good[0].prompt, "+++", "++", 0.5), *good[1:]]
    assert report(QualityJudge(), tied)["best_of_n"] is None
    contradicted = [*good, PreferencePair(good[0].prompt, "++", "+++")]
    assert report(QualityJudge(), contradicted)["best_of_n"] is None
    turned = [PreferencePair(p.prompt, p.rejected, p.chosen, 0.0) for p in good]
    assert report(QualityJudge(), turned)["best_of_n"]["mean"] == 1.0
