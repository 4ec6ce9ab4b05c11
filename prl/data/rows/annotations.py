"""Pairs of responses with what one or several annotators say of them, and the table of all annotations of a file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from prl.data.rows.labels import read_annotation
from prl.data.rows.records import RESPONSES, PreferencePair, Record, prompt_key, read_two_responses
from prl.data.rows.row_errors import LABELS, RowError, both_given, shown
from prl.data.rows.row_reader import RowReader
from prl.types import Conversation

SOLE_ANNOTATOR = "1"
"""Name of the annotator in a file that names none."""


@dataclass(frozen=True)
class AnnotatedPair(Record):
    """Two responses to one prompt, and what annotators say of them.

    A row is a preference row in any shape of two responses. Either its label is what one annotator says, who may be
    named in a column `annotator`; or a column `labels` has what each annotator says, as a list or a mapping of names.
    """

    columns: ClassVar = (*PreferencePair.columns, "annotator", "labels")
    shapes: ClassVar = {
        names: f"the columns {', '.join(names[:-1])} and {names[-1]}"
        for names in (
            ("prompt", "response_a", "response_b", "winner"),
            ("prompt", "response_a", "response_b", "winner", "annotator"),
            ("prompt", "response_a", "response_b", "labels"),
            ("prompt", "chosen", "rejected"),
            ("prompt", "chosen", "rejected", "annotator"),
        )
    }

    first: str
    second: str
    annotations: dict[str, float]
    """Annotator -> probability that `first` is better."""
    is_named: bool = False
    """Whether the row names its annotators."""
    tells: bool = False
    """Whether the columns themselves say which response is better, as `chosen` and `rejected` do."""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the pair from a row that is being checked. Raises RowError."""
        names = row.choose(RESPONSES)
        if names[0] == "completions":
            raise RowError("ranked list", "completions", f"'completions' with {names[1]!r}")
        if "weight" in row:
            raise RowError("weighted", "weight", shown(row.take("weight")))
        if "labels" in row:
            return [cls._from_list(row, names)]
        if row.is_null("annotator"):
            raise RowError("no annotator", "annotator", "null")
        is_named = "annotator" in row
        annotator = _name(row.take("annotator")) if is_named else SOLE_ANNOTATOR
        [pair] = PreferencePair.from_row(row)
        said = {annotator: pair.preference}
        return [cls(pair.prompt, pair.chosen, pair.rejected, said, is_named, names[0] == "chosen", pair.extra)]

    @classmethod
    def _from_list(cls, row: RowReader, names: tuple[str, ...]) -> Self:
        if other := next((name for name in ("annotator", *LABELS) if name in row), None):
            raise both_given(("labels",), (other,), "label")
        given = row.take("labels")
        if isinstance(given, Mapping):
            given = list(given.items())
        elif isinstance(given, list) and not all(isinstance(each, tuple) and len(each) == 2 for each in given):
            given = [(str(number), each) for number, each in enumerate(given, 1)]  # otherwise a map of Parquet
        if not isinstance(given, list):
            expected = "a list of annotations, or a mapping annotator -> annotation"
            fix = "Write the file as .jsonl or .parquet, or one row for each annotation with a column annotator."
            raise RowError("not a list", "labels", shown(given), expected=expected, fix=fix)
        row.label = "labels"
        said: dict[str, float] = {}
        for who, each in given:
            if each is None:
                continue
            if (name := _name(who)) in said:
                raise RowError("one name twice", f"labels[{who}]", f"{name!r} a second time")
            said[name] = read_annotation(each, f"labels[{who}]")
        if not said:
            raise RowError("no annotations", "labels", shown(row.take("labels")))
        prompt, first, second = read_two_responses(row, *names)
        return cls(prompt, first, second, said, True, names[0] == "chosen", row.extra())


def _name(found: Any) -> str:
    if isinstance(found, bool) or not isinstance(found, str | int) or not str(found).strip():
        raise RowError("wrong type", "annotator", shown(found), expected="a name or a number")
    return str(found).strip()


@dataclass
class JudgedByPeople:
    """A pair with everything that annotators of a file say of it. Its two responses stand in their alphabetic order."""

    prompt: Conversation
    responses: tuple[str, str]
    listed_first: int
    """Which of the two the file's first row of the pair shows first: 0 or 1."""
    source: str | None
    annotations: dict[str, float]
    """Annotator -> probability that `responses[0]` is better."""

    @property
    def key(self) -> str:
        """Name of the prompt: pairs of one prompt are not independent."""
        return prompt_key(self.prompt)

    def drawn_first(self) -> int:
        """Draw which response is the first one, 0 or 1, by a hash of the content alone."""
        content = json.dumps([self.key, *self.responses]).encode()
        return hashlib.sha256(content).digest()[0] & 1


class Annotations:
    """All annotations of a file, put together by pair whatever the order of its rows and responses."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str, str], JudgedByPeople] = {}
        self._is_named: bool | None = None
        self._tells = False
        self._winning_sides: set[bool] = set()

    def add(self, record: AnnotatedPair) -> None:
        """Add the annotations of a row.

        Raises:
            RowError: where an annotator has said something of the pair already, or just some rows name annotators.
        """
        if self._is_named is not None and self._is_named != record.is_named:
            raise RowError("no annotator", "annotator", "names in just some of the rows")
        turned = record.second < record.first
        first, second = (record.second, record.first) if turned else (record.first, record.second)
        key = (prompt_key(record.prompt), first, second)
        known = self._pairs.get(key)
        if known is not None and (twice := sorted(record.annotations.keys() & known.annotations.keys())):
            raise RowError("annotated twice", "annotator", f"{twice[0]!r} a second time for this pair")
        if known is None:
            source = record.extra.get("source")
            named = None if source is None else str(source)
            known = self._pairs[key] = JudgedByPeople(record.prompt, (first, second), int(turned), named, {})
        self._is_named, self._tells = record.is_named, self._tells or record.tells
        # By row: a file with the preferred response first in every row has a pair in both orders.
        self._winning_sides |= {said > 0.5 for said in record.annotations.values() if said != 0.5}
        known.annotations |= {who: 1 - said if turned else said for who, said in record.annotations.items()}

    @property
    def pairs(self) -> list[JudgedByPeople]:
        """The pairs in the order of their first rows."""
        return list(self._pairs.values())

    @property
    def annotators(self) -> list[str]:
        """Names of the annotators, those with most annotations first."""
        counts: dict[str, int] = {}
        for pair in self._pairs.values():
            for who in pair.annotations:
                counts[who] = counts.get(who, 0) + 1
        return sorted(counts, key=lambda who: (-counts[who], who))

    def order_tells(self) -> bool:
        """Return whether the order of the responses in the file gives the labels away.

        Columns `chosen` and `rejected` do, and so does a file in which one column wins wherever there is a winner.
        """
        return self._tells or len(self._winning_sides) < 2
