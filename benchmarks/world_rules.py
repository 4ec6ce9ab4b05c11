"""Rules that know the truth of the quickstart's world, as verifiers for methods that are about verifiable answers."""

from typing import Any

from prl.quickstart.world import gold_quality, right_answer
from prl.types import Conversation


def is_right(prompt: Conversation, response: str, row: dict[str, Any]) -> float:
    """Return 1 for the right answer to a prompt of the world, else 0."""
    return float(response.strip() == right_answer(prompt[-1]["content"]))


def quality(prompt: Conversation, response: str, row: dict[str, Any]) -> float:
    """Return the true quality of a response, in [0, 1]."""
    return gold_quality(prompt[-1]["content"], response.strip())


def is_right_before_dots(prompt: Conversation, response: str, row: dict[str, Any]) -> float:
    """Return 1 for the right answer with any number of dots behind it, else 0."""
    return is_right(prompt, response.strip().rstrip("."), row)
