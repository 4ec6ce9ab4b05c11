"""Preferences over the tasks of the quickstart's world whose law is known, in regimes that favour one judge or another.

A label says that u is better than v with probability

    p(u better than v | x) = e + (1 - 2e) * sigmoid(m_x(u, v))

with an error rate e and log-odds m that depend on the regime; q_x(u) in [0, 1] is the true quality of a response.

    scalar  m = 8 (q_x(u) - q_x(v))                         one scale for all prompts
    scaled  m = k_x (q_x(u) - q_x(v))                       k_x from 2 to 32, by the prompt
    paired  m = k_x (1 + s(u, v)) (q_x(u) - q_x(v))         the quickstart's: s is the similarity of the responses
    cyclic  m = 6 (q_x(u) - q_x(v)) + 3 c(u, v)             c is rock, paper, scissors of lengths modulo three

A reward r_x(u) whose differences are the log-odds, as Bradley-Terry assumes, exists in the first two regimes, whatever
the scale of a prompt. In the third it does not, but an order of the responses does; in the fourth not even that.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Literal

from prl.quickstart.world import FAMILIES, Split, corrupt, gold_quality, right_answer, sample_prompt

Regime = Literal["scalar", "scaled", "paired", "cyclic"]


def _gap(prompt: str, first: str, second: str) -> float:
    return gold_quality(prompt, first) - gold_quality(prompt, second)


def _scalar(prompt: str, first: str, second: str) -> float:
    return 8 * _gap(prompt, first, second)


def _scaled(prompt: str, first: str, second: str) -> float:
    share = int.from_bytes(hashlib.sha256(f"scale {prompt}".encode()).digest()[:4], "big") / 2**32
    return 2 * 16**share * _gap(prompt, first, second)


def _paired(prompt: str, first: str, second: str) -> float:
    same = sum(a == b for a, b in zip(first, second, strict=False)) / max(len(first), len(second))
    return FAMILIES[prompt.partition(" ")[0]].sharpness * (1 + same) * _gap(prompt, first, second)


def _cyclic(prompt: str, first: str, second: str) -> float:
    turn = (0, 1, -1)[(len(first) - len(second)) % 3]
    return 6 * _gap(prompt, first, second) + 3 * turn


LOG_ODDS: dict[str, Callable[[str, str, str], float]] = {
    "scalar": _scalar,
    "scaled": _scaled,
    "paired": _paired,
    "cyclic": _cyclic,
}
"""Log-odds m of each regime."""


def probability(regime: str, error: float, prompt: str, first: str, second: str) -> float:
    """Compute p(first better than second | prompt)."""
    return error + (1 - 2 * error) / (1 + math.exp(-LOG_ODDS[regime](prompt, first, second)))


def comparisons(draw: Random, split: Split, families: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Draw prompts with two different responses of up to two mistakes each, without end.

    Args:
        draw: random numbers.
        split: prompts of training or of validation.
        families: tasks to draw from; all when empty.
    """
    while True:
        prompt = sample_prompt(draw, split)
        if families and prompt.partition(" ")[0] not in families:
            continue
        first, second = (_response(draw, prompt) for _ in range(2))
        if first != second:
            yield prompt, first, second


def _response(draw: Random, prompt: str) -> str:
    response = right_answer(prompt)
    for _ in range(draw.choices((0, 1, 2), weights=(35, 40, 25))[0]):
        response = corrupt(draw, prompt, response)
    return response


def labelled_pairs(
    seed: str, count: int, regime: str, error: float, families: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Draw training pairs, each with one label that may be wrong."""
    draw = Random(f"{seed}/{regime}/train")
    found = []
    for prompt, first, second in comparisons(draw, "train", families):
        if draw.random() >= probability(regime, error, prompt, first, second):
            first, second = second, first
        found.append({"prompt": prompt, "chosen": first, "rejected": second})
        if len(found) == count:
            return found
    raise AssertionError


def true_pairs(
    seed: str, count: int, regime: str, error: float, split: Split = "validation", families: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Draw pairs with the probability of their label; `chosen` is the response that is better in truth.

    Pairs of which neither response is better are left out, since they have no winner to be found.
    """
    draw = Random(f"{seed}/{regime}/{split}/truth")
    found = []
    for prompt, first, second in comparisons(draw, split, families):
        odds = LOG_ODDS[regime](prompt, first, second)
        if odds == 0:
            continue
        if odds < 0:
            first, second = second, first
        known = probability(regime, error, prompt, first, second)
        found.append({"prompt": prompt, "chosen": first, "rejected": second, "preference": known})
        if len(found) == count:
            return found
    raise AssertionError
