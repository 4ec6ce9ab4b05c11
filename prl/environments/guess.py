"""A game of few words: find a number by what is left. `rows.py` writes rows of it."""

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from prl.environments.base import Environment, Episode, Reply
from prl.types import Conversation

SPAN, FIRST = 7, (1, 2, 3)
"""Numbers of a range, and where ranges begin: all numbers have one digit."""


class GuessTheNumber(Environment):
    """Guess a secret number. The prompt is the range, such as `1..7`; the column `secret` has the number.

    To a wrong number the game says the range that is left, to anything else the range as it was. The number is worth 1
    and ends the game, what is no number of the range costs `nonsense`, and other turns are worth nothing. Who halves
    the range finds one of seven numbers in three turns.

    Args:
        nonsense: reward to subtract for a turn that is no number of the range.

    Raises:
        ValueError: for a negative cost.
    """

    def __init__(self, nonsense: float = 0.1) -> None:
        if not nonsense >= 0:
            raise ValueError(f"GuessTheNumber.nonsense is {nonsense}; expected 0 or more")
        self.nonsense = nonsense

    def begin(self, prompt: Conversation, row: Mapping[str, Any]) -> Episode:
        """Begin a game. Raises ValueError for a prompt that is no range, or a row without a number in it."""
        text, secret = prompt[-1]["content"], row.get("secret")
        found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
        if found is None:
            raise ValueError(f"GuessTheNumber plays on prompts such as '1..7', and one of the data is {text[:60]!r}")
        low, high = map(int, found.groups())
        if type(secret) is not int or not low <= secret <= high:
            raise ValueError(
                f"GuessTheNumber reads the column 'secret', a whole number in the range of the prompt {text!r}, and "
                f"found {secret!r} among the columns {sorted(row)}"
            )
        return _Game(low, high, secret, self.nonsense)


class _Game(Episode):
    def __init__(self, low: int, high: int, secret: int, nonsense: float) -> None:
        self.low, self.high, self.secret, self.nonsense = low, high, secret, nonsense

    def reply(self, text: str) -> Reply:
        guess = int(text) if re.fullmatch(r"[0-9]{1,4}", text.strip()) else None
        if guess is None or not self.low <= guess <= self.high:
            return Reply(f"{self.low}..{self.high}", -self.nonsense, False)
        self.success = guess == self.secret
        if guess < self.secret:
            self.low = guess + 1
        else:
            self.high = guess - 1
        return Reply(f"{self.low}..{self.high}", float(self.success), self.success)


def games(rng: Random, count: int) -> Iterator[dict[str, Any]]:
    """Draw rows of `GuessTheNumber`."""
    for _ in range(count):
        low = rng.choice(FIRST)
        yield {"prompt": f"{low}..{low + SPAN - 1}", "secret": low + rng.randrange(SPAN)}
