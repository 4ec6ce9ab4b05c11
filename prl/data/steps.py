"""Steps of a response, as in a derivation: which of them each token is in."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase


class StepFinder:
    """Tells which step of its response a token is in.

    A step ends with its separator, or several in a row. A token is in the step in which its text begins, so that one
    with the separator and the text behind it is in the step that ends. Separators before or behind all text end no
    step, and the token that ends a response is in its last one.

    Args:
        tokenizer: whose ids are read.
        separator: text that ends a step, such as a line break.

    Raises:
        ValueError: for an empty separator.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, separator: str) -> None:
        if not separator:
            raise ValueError("step_separator is empty; expected the text that ends a step, such as a line break")
        self._separator = re.compile(f"(?:{re.escape(separator)})+")
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def numbers(self, ids: Sequence[int]) -> list[int]:
        """Tell of each token of a response which step it is in, from 0."""
        pieces = [self._text(token) for token in ids]
        text = "".join(pieces)
        starts = list(accumulate(map(len, pieces), initial=0))[:-1]
        ends = [each.end() for each in self._separator.finditer(text)]
        ends = [end for end in ends if text[:end].strip() and text[end:].strip()]
        found = [bisect_right(ends, start) for start in starts]
        dense = {number: n for n, number in enumerate(sorted(set(found)))}  # a token may have several ends in it
        return [dense[number] for number in found]

    def _text(self, token: int) -> str:
        """Read a token alone; texts need not add up to the response, only to one with the same separators."""
        if token not in self._texts:
            self._texts[token] = str(self._tokenizer.decode([token], skip_special_tokens=True))
        return self._texts[token]
