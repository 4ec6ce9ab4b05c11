"""Search in documents of a local file, by BM25."""

import json
import math
import re
from collections import Counter
from pathlib import Path

from prl.tools.base import Tool, ToolError

_WORD = re.compile(r"\w+")


class Search(Tool):
    """Answer with the documents that fit a query best: Okapi BM25 (Robertson and Zaragoza 2009), words as in Lucene.

    Score of a document d for the words q: sum of idf(q) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|)), f how often q
    is in d, idf(q) = log(1 + (N - n + 1/2) / (n + 1/2)) for n of N documents that have it.

    Args:
        path: .jsonl file with the text of a document in the field `text` of each line.
        results: documents in an answer.
        k1: how soon further occurrences of a word stop counting.
        b: how much long documents are held back, from 0 to 1.

    Raises:
        ValueError: naming the file and the line for one that is missing or holds something else, or a number out of
            range.
    """

    def __init__(self, path: str, results: int = 1, k1: float = 1.5, b: float = 0.75) -> None:
        if results < 1 or k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"Search has results {results}, k1 {k1}, b {b}; expected 1 or more, 0 or more, 0 to 1")
        self.results, self.k1, self.b = results, k1, b
        self.texts = _read(Path(path))
        self._counts = [Counter(_words(text)) for text in self.texts]
        self._held_by = Counter(word for counts in self._counts for word in counts)
        self._mean_length = sum(counts.total() for counts in self._counts) / len(self._counts)

    def scores(self, query: str) -> list[float]:
        """Compute the score of each document."""
        words = [word for word in _words(query) if word in self._held_by]
        return [sum(self._score(word, counts) for word in words) for counts in self._counts]

    def _score(self, word: str, counts: Counter[str]) -> float:
        held, often = self._held_by[word], counts[word]
        rarity = math.log(1 + (len(self.texts) - held + 0.5) / (held + 0.5))
        length = 1 - self.b + self.b * counts.total() / max(self._mean_length, 1e-9)
        return rarity * often * (self.k1 + 1) / (often + self.k1 * length) if often else 0.0

    def answer(self, text: str) -> str:
        """Search; of equal documents the earlier ones come first."""
        scores = self.scores(text)
        best = sorted(range(len(scores)), key=lambda number: -scores[number])[: self.results]
        if not (found := [self.texts[number] for number in best if scores[number] > 0]):
            raise ToolError("no document has any of these words")
        return " | ".join(found)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Search.path {path} cannot be read ({error}); give a .jsonl file of documents") from None
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'{path}, line {number}: no document; expected {{"text": "..."}}')
        texts.append(text.strip())
    if not texts:
        raise ValueError(f"{path} has no document; give a .jsonl file with one in each line")
    return texts
