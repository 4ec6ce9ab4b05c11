"""Corrupted responses for SPO: the keywords of a text, and the text without the most important of them.

Keywords are phrases by RAKE (Rose et al. 2010, Automatic Keyword Extraction from Individual Documents).
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from prl.data.rows.records import PreferencePair

SIDES = ("chosen", "rejected")
_ENGLISH = """
a about above after again against all almost also although always am an and any are as at be because been before being
below between both but by can cannot could did do does doing done down during each either else ever every few for from
further get given had has have having he her here hers herself him himself his how however i if in instead into is it
its itself just least less let like may me might more most much must my myself neither no nor not now of off often on
once one only onto or other others our ours ourselves out over own per quite rather same shall she should since so
some still such than that the their theirs them themselves then there these they this those though through thus to
together too toward towards under until up upon us very was we well were what when where whether which while who whom
whose why will with within without would yes yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_ENGLISH.split())
"""English words that no keyword has in it."""
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@dataclass(frozen=True)
class Keyword:
    """A phrase of a text."""

    text: str
    """In lower case, one space between words."""
    score: float
    """Sum over its words of degree / frequency."""
    spans: tuple[tuple[int, int], ...]
    """Where it stands, from and to."""


def keywords(text: str, stop_words: Set[str] = STOP_WORDS) -> list[Keyword]:
    """Find the keywords of a text by RAKE, the most important first.

    A candidate is a run of words that are no stop words, with nothing but spaces between them. A word scores its
    degree, the lengths of its candidates added up, over its frequency; a candidate the sum of its words. Of equal
    scores the earlier one is first.

    Args:
        text: the text.
        stop_words: in lower case.
    """
    runs: list[list[re.Match[str]]] = [[]]
    end = 0
    for word in _WORD.finditer(text):
        if text[end : word.start()].strip(" "):
            runs.append([])
        end = word.end()
        if word[0].lower() in stop_words:
            runs.append([])
        else:
            runs[-1].append(word)
    candidates = [run for run in runs if run]
    degree, frequency = Counter[str](), Counter[str]()
    spans: dict[str, list[tuple[int, int]]] = {}
    for run in candidates:
        words = [word[0].lower() for word in run]
        frequency.update(words)
        degree.update({word: words.count(word) * len(words) for word in words})
        spans.setdefault(" ".join(words), []).append((run[0].start(), run[-1].end()))
    scores = {each: sum(degree[word] / frequency[word] for word in each.split()) for each in spans}
    ranked = sorted(spans, key=lambda each: -scores[each])
    return [Keyword(each, scores[each], tuple(spans[each])) for each in ranked]


def without(text: str, removed: Iterable[Keyword]) -> str:
    """Take all occurrences of keywords out of a text, each with a space beside it; the rest stays as it is."""
    for start, end in sorted((span for each in removed for span in each.spans), reverse=True):
        before, behind = text[:start].rstrip(" "), text[end:]
        is_first = not before or before.endswith("\n")
        text = before + (behind.lstrip(" ") if is_first else behind)
    return text.strip()


@dataclass
class Corrupter:
    """Writes corrupted responses and their levels into preference rows.

    At level k of C, the round(k n / C) most important of a response's n keywords are removed. A level that removes as
    many as the one before it, or all words, cannot be told, and is not drawn.

    Args:
        levels: C, the untouched level 0 included.
        seed: of the levels; they depend on it, the number of the row and the side alone.
        stop_words: words that no keyword has in it, in lower case.

    Raises:
        ValueError: for fewer than 2 levels.
    """

    levels: int = 4
    seed: int = 0
    stop_words: Set[str] = STOP_WORDS
    counts: Counter[str] = field(default_factory=Counter)
    """Responses by level, and those for which some level could not be told."""

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}; expected at least 2, with the untouched one")

    def versions(self, text: str) -> dict[int, str]:
        """Corrupt a text to every level that can be told."""
        found, taken = keywords(text, self.stop_words), 0
        versions = {0: text}
        for level in range(1, self.levels):
            count = (2 * level * len(found) + self.levels) // (2 * self.levels)
            rest = without(text, found[:count])
            if count > taken and _WORD.search(rest):
                versions[level], taken = rest, count
        return versions

    def row(self, pair: PreferencePair, number: int) -> dict[str, Any]:
        """Write a pair as an ordinary preference row, with the columns that SPO reads.

        Args:
            pair: the pair.
            number: its number in the data.

        Raises:
            ValueError: for a row that has such a column already.
        """
        columns: dict[str, Any] = {}
        for side in SIDES:
            versions = self.versions(getattr(pair, side))
            level = random.Random(f"{self.seed} {number} {side}").choice(sorted(versions))
            columns |= {f"corrupted_{side}": versions[level], f"level_{side}": level}
            self.counts[f"responses at level {level}"] += 1
            self.counts["responses with too few keywords for all levels"] += len(versions) < self.levels
        if taken := sorted(columns.keys() & pair.extra.keys()):
            raise ValueError(
                f"row {number + 1} has a column {taken[0]!r} already, which is to be written; leave it out of the data"
            )
        # A column of other meaning that preference data reads as a label would label this pair.
        kept = {name: value for name, value in pair.extra.items() if name not in PreferencePair.columns}
        own = {"prompt": list(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
        labels = {"preference": pair.preference} if pair.preference != 1 else {}
        return {**kept, **own, **labels, **({"weight": pair.weight} if pair.weight != 1 else {}), **columns}
