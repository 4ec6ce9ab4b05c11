"""The probe that tells chosen from rejected by tokens alone: worlds in which the answer is known."""

import random

import pytest
import torch

from prl.data import PreferencePair
from prl.evaluation import separability as probe
from prl.evaluation.separability import FEWEST_PROMPTS, fit_logistic, same_source, separability

WORDS = [f"word{n}" for n in range(60)]


def drawn(draw: random.Random, words: list[str] = WORDS) -> str:
    return " ".join(draw.choices(words, k=8))


def pair(prompt: int, chosen: str, rejected: str, preference: float = 1.0, **columns: str) -> PreferencePair:
    return PreferencePair([{"role": "user", "content": f"{prompt}"}], chosen, rejected, preference, extra=columns)


def measured(pairs: list[PreferencePair]) -> dict[str, float]:
    found = separability(pairs, [each.prompt[0]["content"] for each in pairs])
    assert found is not None
    return found


def test_one_generator_with_labels_at_random_is_a_coin() -> None:
    draw = random.Random(0)
    found = measured([pair(n % 200, drawn(draw), drawn(draw)) for n in range(400)])
    assert found["low"] < 0.5 < found["high"]
    assert abs(found["accuracy"] - 0.5) < 0.06
    assert found["num_pairs"] == 400


def test_two_generators_are_told_apart_until_the_labels_are_shuffled() -> None:
    """Each favours words of its own. A shuffled label leaves both responses where they are."""
    draw = random.Random(1)
    texts = [(drawn(draw, WORDS[:40]), drawn(draw, WORDS[20:])) for _ in range(200)]
    assert measured([pair(n, *both) for n, both in enumerate(texts)])["low"] > 0.9
    turned = [pair(n, *both[:: draw.choice((1, -1))]) for n, both in enumerate(texts)]
    assert abs(measured(turned)["accuracy"] - 0.5) < 0.08
    soft = [pair(n, *both[::-1], preference=0.2) if n % 2 else pair(n, *both) for n, both in enumerate(texts)]
    assert measured(soft)["low"] > 0.9  # of every other pair the second response is the better one
    assert separability([pair(n, *both, preference=0.5) for n, both in enumerate(texts)], range(200)) is None


def test_a_marker_of_one_token_tells_everything() -> None:
    draw = random.Random(2)
    pairs = [pair(n, f"{drawn(draw)} #", drawn(draw)) for n in range(60)]
    assert measured(pairs) == {"accuracy": 1.0, "low": 1.0, "high": 1.0, "num_pairs": 60}


def test_a_prompt_is_never_on_both_sides() -> None:
    """Words that only one prompt's pairs have, always in chosen there: learnt if a probe saw them, and useless else."""
    draw = random.Random(3)
    pairs = [
        pair(
            n,
            f"own{n} own{n} {drawn(draw)}" if n % 2 else drawn(draw),
            drawn(draw) if n % 2 else f"own{n} {drawn(draw)}",
        )
        for n in range(100)
        for _ in range(4)
    ]
    assert measured(pairs)["accuracy"] < 0.6


def test_many_pairs_are_drawn_by_whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST_PAIRS", 61)
    draw = random.Random(4)
    pairs = [pair(n % 100, f"{drawn(draw)} #", drawn(draw)) for n in range(300)]
    assert measured(pairs)["num_pairs"] == 60
    keys = [each.prompt[0]["content"] for each in pairs]
    assert separability(pairs[: 3 * (FEWEST_PROMPTS - 1)], [n // 3 for n in range(3 * (FEWEST_PROMPTS - 1))]) is None
    assert separability(pairs, keys, lambda text: list(text[:1]))["accuracy"] == 0.5  # all begin alike


def test_the_fit_is_that_of_newtons_method() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    labels = (features[:, 0] + torch.randn(80, generator=generator) > 0.3).double()
    rows = torch.cat([features, torch.ones(80, 1, dtype=torch.float64)], 1)
    penalty, exact = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for _ in range(20):
        prob = (rows @ exact).sigmoid()
        curvature = (rows * (prob * (1 - prob))[:, None]).T @ rows + penalty.diag()
        exact = exact - torch.linalg.solve(curvature, rows.T @ (prob - labels) + penalty * exact)
    weights, bias = fit_logistic(features, labels)
    torch.testing.assert_close(torch.cat([weights, bias[None]]), exact, rtol=0, atol=1e-4)


def test_pairs_of_one_source_are_counted() -> None:
    rows = [pair(0, "a", "b", chosen_source="self", rejected_source=other) for other in ("self", "peer", "pool", "x")]
    rows += [pair(0, "a", "b"), pair(0, "a", "b", chosen_model="m", rejected_model="m")]
    assert same_source(rows) == {"share": 2 / 5, "num_pairs": 5}
    assert same_source(rows[4:5]) is None
