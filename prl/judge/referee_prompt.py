"""What a referee is asked, how its answer is read, and how well its scores agree with a ranking.

A referee is a policy that writes a score for each of several responses; `self_referee.py` rewards with it.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from itertools import combinations
from random import Random

from prl.judge.template import render_conversation
from prl.types import Conversation

INSTRUCTION = "Score all responses to the conversation: the more helpful, correct and honest, the higher."
SCALE = (1.0, 10.0)
"""Lowest and highest score."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?")


def check_scale(name: str, scale: Sequence[float]) -> tuple[float, float]:
    """Return lowest and highest score.

    Raises:
        ValueError: naming the setting, for anything but two finite numbers, the lower one first.
    """
    if len(scale) != 2 or not all(map(math.isfinite, scale)) or scale[0] >= scale[1]:
        raise ValueError(f"{name} is {list(scale)}; expected two finite numbers, the lowest score and the highest")
    return scale[0], scale[1]


def referee_prompt(
    prompt: Conversation,
    responses: Sequence[str],
    instruction: str = INSTRUCTION,
    scale: tuple[float, float] = SCALE,
) -> Conversation:
    """Ask for a score of each response, in a single user turn.

    Args:
        prompt: the conversation that was answered.
        responses: N responses in the order in which they are shown.
        instruction: what the scores are to mean.
        scale: lowest and highest score.
    """
    parts = [instruction, f"# Conversation\n{render_conversation(prompt)}"]
    parts += [f"# Response {number}\n{text}" for number, text in enumerate(responses, start=1)]
    parts.append(f"Last line: {len(responses)} numbers from {scale[0]:g} to {scale[1]:g}, one for each in this order.")
    return ({"role": "user", "content": "\n\n".join(parts)},)


def shown_order(prompt: Conversation, responses: Sequence[str], seed: int = 0) -> list[int]:
    """Draw the order in which responses are shown: always the same for the same texts and seed.

    It does not depend on the order in which they are given, as long as they differ.
    """
    order = sorted(range(len(responses)), key=lambda number: responses[number])
    text = json.dumps([list(prompt), [responses[number] for number in order], seed])
    Random(hashlib.sha256(text.encode()).hexdigest()).shuffle(order)
    return order


def read_scores(answer: str, count: int, scale: tuple[float, float] = SCALE) -> list[float] | None:
    """Read the scores on the last line of an answer; None unless it is `count` numbers of the scale and nothing else.

    Numbers are parted by spaces, commas or semicolons.
    """
    lines = answer.strip().split("\n")
    words = re.split(r"[\s,;]+", lines[-1].strip())
    if len(words) != count or not all(map(_NUMBER.fullmatch, words)):
        return None
    scores = [float(word) for word in words]
    return scores if scale[0] <= min(scores) and max(scores) <= scale[1] else None


def write_scores(gold: Sequence[float], scale: tuple[float, float] = SCALE) -> str:
    """Write scores in the order of a ranking, evenly over the scale: what a perfect referee would answer."""
    levels = sorted(set(gold))
    step = (scale[1] - scale[0]) / max(len(levels) - 1, 1)
    return " ".join(f"{round(scale[0] + step * levels.index(each), 2):g}" for each in gold)


def kendall_tau(gold: Sequence[float], found: Sequence[float]) -> float:
    """Compute how far two lists of scores agree in order: (agreeing - contrary pairs) / all pairs, from -1 to 1.

    A pair that is equal in either list counts 0, which is Kendall's tau-a; libraries divide by the pairs that are not
    tied (tau-b).

    Raises:
        ValueError: for lists of different lengths, or of fewer than two scores.
    """
    if len(gold) != len(found) or len(gold) < 2:
        raise ValueError(f"{len(gold)} scores and {len(found)} cannot be compared; expected the same number, 2 or more")
    pairs = list(combinations(range(len(gold)), 2))
    return sum(_sign(gold[i] - gold[j]) * _sign(found[i] - found[j]) for i, j in pairs) / len(pairs)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
