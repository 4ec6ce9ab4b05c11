"""Search in documents of a local file, by BM25."""

import json
import math
import re
from collections import Counter, defaultdict
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
        self._held_by: dict[str, list[tuple[int, int]]] = defaultdict(list)  # word -> documents, and how often in each
        lengths = []
        for number, text in enumerate(self.texts):
            counts = Counter(_words(text))
            lengths.append(counts.total())
            for word, often in counts.items():
                self._held_by[word].append((number, often))
        mean = max(sum(lengths) / len(lengths), 1e-9)
        self._lengths = [1 - b + b * length / mean for length in lengths]

    def scores(self, query: str) -> list[float]:
        """Compute the score of each document."""
        scores = [0.0] * len(self.texts)
        for word, asked in Counter(_words(query)).items():
            held = self._held_by.get(word, [])
            rarity = math.log(1 + (len(scores) - len(held) + 0.5) / (len(held) + 0.5))
            for number, often in held:
                scores[number] += asked * rarity * often * (self.k1 + 1) / (often + self.k1 * self._lengths[number])
        return scores

    def answer(self, text: str) -> str:
        """Search; of equal documents the earlier ones come first."""
        scores = self.scores(text)
        best = sorted(range(len(scores)), key=lambda number: -scores[number])[: self.results]
        if not (found := [self.texts[number] for number in best if scores[number] > 0]):
            raise ToolError("no document has any of these words")
        return " | ".join(found)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _is_torn(text: str) -> bool:
    """Tell whether a text holds half a surrogate pair, which no tokenizer takes."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
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
        if not isinstance(text, str) or not text.strip() or _is_torn(text):
            raise ValueError(f'{path}, line {number}: no document; expected {{"text": "..."}}')
        texts.append(text.strip())
    if not texts:
        raise ValueError(f"{path} has no document; give a .jsonl file with one in each line")
    return texts
