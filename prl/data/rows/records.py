"""The three kinds of data row in canonical form.

A prompt is a conversation and a response is a plain string, whatever shape the row came in:

- PreferencePair: two responses and how likely the first is better, in the shapes of docs/data.md
- AnchoredPrompt: `prompt`, with `anchor` (or its alias `anchors`) one response, a list of responses or absent
- Demonstration: `prompt`, `completion`; or `messages`, whose last assistant turn is the completion

`prompt` is a string (one user turn) or a list of messages. A response is a string or a list with one assistant message,
which may repeat the prompt in front of it. A null cell counts as absent. Columns that are not read are kept in `extra`.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from prl.data.rows.labels import LABELS, read_preference, read_ranking, read_weight
from prl.data.rows.row_errors import RowError, both_given, shown
from prl.data.rows.row_reader import RowReader
from prl.types import Conversation, Message

__all__ = [
    "AnchoredPrompt",
    "Demonstration",
    "PreferencePair",
    "Record",
    "RowReader",
    "RowError",
    "prompt_key",
]


@dataclass(frozen=True)
class Record(ABC):
    """Base of all kinds of row: a prompt."""

    columns: ClassVar[tuple[str, ...]]
    """Column names that the kind reads."""
    shapes: ClassVar[dict[tuple[str, ...], str]]
    """Accepted sets of columns, each with its description for error messages."""

    prompt: Conversation
    """Turns up to the one that a response answers; a tuple if read from a row."""

    @classmethod
    @abstractmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the records of a row that is being checked, and set the row's shape. Raises RowError."""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> list[Self]:
        """Build the records of a raw row in any accepted shape: one, or several from a ranked list. Raises RowError."""
        return cls.from_row(cls.row(raw))

    @classmethod
    def row(cls, raw: Mapping[str, Any], written: bool = False) -> RowReader:
        """Wrap a raw row for reading as this kind of record; `written` if its numbers are text."""
        return RowReader(raw, cls.columns, cls.shapes, written)


RESPONSES = (
    ("chosen", "rejected"),
    ("response_a", "response_b"),
    ("response", "anchor"),
    ("response", "baseline_answer"),
    ("response", "reference"),
    ("completions", "rank"),
    ("completions", "scores"),
)
"""Accepted names for the responses of a preference row; of `completions`, how they are ranked."""


def read_two_responses(row: RowReader, first: str, second: str) -> tuple[tuple[Message, ...], str, str]:
    """Read the prompt and the two responses in the columns named, and set the row's shape. Raises RowError."""
    prompt, form = row.prompt_of(first, second)
    row.shape = f"prompt, {first}, {second}" if form == "explicit" else f"{first}, {second} ({form})"
    one, other = row.response(first, prompt), row.response(second, prompt)
    if one == other:
        raise RowError("chosen equals rejected", second, shown(other))
    return prompt, one, other


@dataclass(frozen=True)
class PreferencePair(Record):
    """Two responses to one prompt, and how likely the first is the better one."""

    columns: ClassVar = tuple(dict.fromkeys(("prompt", *sum(RESPONSES, ()), *LABELS, "weight")))
    shapes: ClassVar = {
        ("prompt", "chosen", "rejected"): "the columns prompt, chosen and rejected",
        ("chosen", "rejected"): "chosen and rejected as message lists or transcripts that begin with the same prompt",
        ("prompt", "response_a", "response_b", "winner"): "the columns prompt, response_a, response_b and winner",
        ("prompt", "response", "anchor", "label"): "the columns prompt, response, anchor and label",
        ("prompt", "response", "baseline_answer", "label"): "the columns prompt, response, baseline_answer and label",
        ("prompt", "response", "reference", "label"): "the columns prompt, response, reference and label",
        ("prompt", "completions", "rank"): "the columns prompt, completions and rank",
        ("prompt", "completions", "scores"): "the columns prompt, completions and scores",
    }

    chosen: str
    rejected: str
    preference: float = 1.0
    """Probability that `chosen` is the better response, in [0, 1]."""
    weight: float = 1.0
    """Weight of the pair in training, relative to the others of its batch."""
    extra: dict[str, Any] = field(default_factory=dict)
    stripped: tuple[int, int] = field(default=(0, 0), compare=False)
    """Characters of white space stripped from the ends of `chosen` and `rejected`."""
    attack: str = ""
    """Family of attacks that made `rejected`, in a pair that training adds; empty for a pair of the data."""

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the pair, or all pairs of a ranked list, from a row that is being checked. Raises RowError."""
        names = row.choose(RESPONSES)
        if names[0] == "completions":
            row.shape = ", ".join(("prompt", *names))
            prompt = row.prompt()
            ranked = read_ranking(row, names[1], prompt)
            weight = read_weight(row, max(len(ranked), 1))  # however long the list, the row counts once
            return [
                cls(prompt, *texts, weight=weight, extra=row.extra(), stripped=stripped) for texts, stripped in ranked
            ]
        weight = read_weight(row)
        first, second = names
        prompt, chosen, rejected = read_two_responses(row, first, second)
        if first == "chosen" and "winner" in row:
            raise both_given(names, ("winner",), "label")
        default = 1.0 if first == "chosen" else None
        preference = read_preference(row, default, usual="winner" if first == "response_a" else "label")
        stripped = (row.stripped[first], row.stripped[second])
        return [cls(prompt, chosen, rejected, preference, weight, row.extra(), stripped)]


@dataclass(frozen=True)
class AnchoredPrompt(Record):
    """A prompt for reinforcement learning, with the anchors of its responses."""

    columns: ClassVar = ("prompt", "messages", "anchor", "anchors")
    shapes: ClassVar = {
        ("prompt",): "the column prompt",
        ("prompt", "anchor"): "the columns prompt and anchor",
        ("messages",): "the column messages, ending in a user turn",
    }

    anchors: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the prompt from a row that is being checked; `prompt` wins over `messages`. Raises RowError."""
        column = "messages" if "messages" in row and "prompt" not in row else "prompt"
        row.shape = ", ".join([column, *(name for name in ("anchor", "anchors") if name in row)])
        prompt = row.open_dialogue(column) if column == "messages" else row.prompt()
        anchors = row.responses("anchor", prompt) + row.responses("anchors", prompt)
        return [cls(prompt, anchors, row.extra())]


@dataclass(frozen=True)
class Demonstration(Record):
    """A prompt and the response to imitate."""

    columns: ClassVar = ("prompt", "completion", "messages")
    shapes: ClassVar = {
        ("prompt", "completion"): "the columns prompt and completion",
        ("messages",): "the column messages, ending in an assistant turn",
    }

    completion: str
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the record from a row that is being checked; `completion` wins over `messages`. Raises RowError."""
        if "messages" in row and "completion" not in row:
            row.shape = "messages"
            return [cls(*row.dialogue("messages"), row.extra())]
        row.shape = "prompt, completion"
        prompt = row.prompt()
        return [cls(prompt, row.response("completion", prompt), row.extra())]


def prompt_key(prompt: Conversation) -> str:
    """Hash a prompt by its content, so that rows of one prompt can be found and kept together."""
    canonical = json.dumps([[message["role"], message["content"]] for message in prompt])
    return hashlib.sha256(canonical.encode()).hexdigest()
