"""The three kinds of data row in canonical form, and the checks that turn a raw row into one.

A prompt is a conversation and a response is a plain string, whatever shape the row came in:

- PreferencePair: `prompt`, `chosen`, `rejected`; or `chosen`, `rejected` as message lists that share the prompt
- AnchoredPrompt: `prompt`, with `anchor` (or its alias `anchors`) one response, a list of responses or absent
- Demonstration: `prompt`, `completion`; or `messages`, whose last assistant turn is the completion

`prompt` is a string (one user turn) or a list of messages. A response is a string or a list with one assistant message,
which may repeat the prompt in front of it. A null cell counts as absent. All other columns are kept in `extra`.
"""

import hashlib
import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, ClassVar, Self

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]
"""`{"role": one of ROLES, "content": text}`; other keys of a message are not kept, and the data report names them."""

Conversation = Sequence[Message]
"""The turns of a dialogue, oldest first."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


# reason: (what was expected, what to do about it)
_ADVICE = {
    "invalid JSON": ("one JSON object", "Repair or remove the line."),
    "undecodable text": ("text in UTF-8", "Write the file again as UTF-8 or remove the row."),
    "no value": ("a value", "Fill the cell or remove the row."),
    "wrong type": ("text", "Convert the column or map another one with `columns`."),
    "empty text": ("non-empty text", "Give it a response or remove the row."),
    "empty message list": ("at least one message", "Add the messages or remove the row."),
    "not a message": ("a message {'role': ..., 'content': ...}", "Rename or add these two keys."),
    "unknown role": ("one of " + ", ".join(ROLES), "Rename the role or remove the row."),
    "assistant turn ends the prompt": ("a prompt to respond to", "Take the last turn off or remove the row."),
    "no prompt": ("a prompt and a last assistant message", "Add the turns that come before it or remove the row."),
    "no shared prompt": ("message lists that begin with the same prompt", "Add a 'prompt' column or repair the lists."),
    "not one assistant message": ("one assistant message, alone or after the prompt", "Move other turns to 'prompt'."),
    "chosen equals rejected": ("two different responses", "Remove the row: it does not say which is better."),
    "invalid preference": ("a number from 0 to 1", "Correct it, or leave it out where chosen is better for certain."),
}


class RowError(ValueError):
    """Why one raw row is not a record: the field, what was found, what was expected and the fix.

    Attributes:
        reason: short category, the key under which a report counts skipped rows.
        field: column, with the position inside it (`prompt[2].role`); None if the row as a whole could not be read.
    """

    def __init__(self, reason: str, field: str | None, found: str, *, expected: str = "", fix: str = "") -> None:
        self.reason, self.field = reason, field
        usual_expected, usual_fix = _ADVICE.get(reason, ("", ""))
        where = "" if field is None else f"field '{field}': "
        super().__init__(f"{where}found {found} ({reason}); expected {expected or usual_expected}. {fix or usual_fix}")


class Row:
    """A raw row on its way to becoming a record: hands out checked values and counts what it had to change.

    Every method raises RowError where the row is not what it should be.

    Attributes:
        num_stripped: responses that lost leading or trailing white space.
        dropped_message_keys: keys other than role and content that held a value in a message.
    """

    def __init__(self, raw: Mapping[str, Any], kind: "type[Record]") -> None:
        self._cells = {name: value for name, value in raw.items() if value is not None}
        self._nulls = raw.keys() - self._cells.keys()
        self._kind = kind
        self.num_stripped = 0
        self.dropped_message_keys: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._cells

    def holds_list(self, name: str) -> bool:
        """Whether the column holds a list."""
        return isinstance(self._cells.get(name), list)

    def prompt(self) -> tuple[Message, ...]:
        """The explicit prompt."""
        value = self._take("prompt")
        if isinstance(value, list):
            return _open_prompt(self._messages("prompt", value), "prompt")
        return ({"role": "user", "content": _checked_text(value, "prompt", "text or a list of messages")},)

    def shared_prompt(self, first: str, second: str) -> tuple[Message, ...]:
        """The turns with which two dialogues begin alike; the last turn of each is never part."""
        sides = [self._messages(name, self._take(name))[:-1] for name in (first, second)]
        shared = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False)))
        if not shared:
            raise RowError("no shared prompt", second, f"no common first message with '{first}'")
        return _open_prompt(shared, first)

    def dialogue(self, name: str) -> tuple[tuple[Message, ...], str]:
        """A dialogue cut into the prompt and the last turn, which must be the assistant's."""
        messages = self._messages(name, self._take(name))
        if len(messages) < 2:
            raise RowError("no prompt", name, "one message")
        return _open_prompt(messages[:-1], name), self.response(name, messages[:-1])

    def response(self, name: str, prompt: Conversation) -> str:
        """One response, stripped."""
        return self._response(name, self._take(name), prompt)

    def responses(self, name: str, prompt: Conversation) -> tuple[str, ...]:
        """No, one or several responses, stripped."""
        value = self._cells.get(name, [])
        if not isinstance(value, list) or (value and isinstance(value[0], Mapping)):
            return (self._response(name, value, prompt),)
        return tuple(self._response(f"{name}[{i}]", each, prompt) for i, each in enumerate(value))

    def probability(self, name: str, default: float) -> float:
        """An optional number in [0, 1]."""
        value = self._cells.get(name, default)
        # NaN is no number in [0, 1] either: every comparison with it is false.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise RowError("invalid preference", name, _short.repr(value))
        return float(value)

    def extra(self) -> dict[str, Any]:
        """The columns that the kind of record does not know."""
        return {name: value for name, value in self._cells.items() if name not in self._kind.columns}

    def _take(self, name: str) -> Any:
        if name in self._nulls:
            raise RowError("no value", name, "null")
        if name not in self._cells:
            raise _missing(name, list(self._cells), self._kind)
        return self._cells[name]

    def _response(self, where: str, value: Any, prompt: Conversation) -> str:
        if isinstance(value, list):
            messages = self._messages(where, value)
            answer = messages[-1:] if messages[:-1] == prompt else messages
            if [message["role"] for message in answer] != ["assistant"]:
                roles = ", ".join(message["role"] for message in messages)
                raise RowError("not one assistant message", where, f"messages of {roles}")
            value = answer[0]["content"]
        text = _checked_text(value, where, "text or a list with one assistant message")
        # White space at the ends differs by generator: a judge would learn who wrote the response.
        stripped = text.strip()
        self.num_stripped += stripped != text
        return stripped

    def _messages(self, where: str, value: Any) -> tuple[Message, ...]:
        if not isinstance(value, list):
            raise RowError("wrong type", where, _short.repr(value), expected="a list of messages")
        if not value:
            raise RowError("empty message list", where, "[]")
        return tuple(self._message(f"{where}[{i}]", message) for i, message in enumerate(value))

    def _message(self, where: str, value: Any) -> Message:
        if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
            raise RowError("not a message", where, _short.repr(value))
        if value["role"] not in ROLES:
            raise RowError("unknown role", f"{where}.role", _short.repr(value["role"]))
        self.dropped_message_keys |= {key for key, item in value.items() if item is not None} - {"role", "content"}
        return {"role": value["role"], "content": _checked_text(value["content"], f"{where}.content")}


@dataclass(frozen=True)
class Record(ABC):
    """What every kind of row has: a prompt."""

    columns: ClassVar[tuple[str, ...]]
    """Column names that the kind reads."""
    shapes: ClassVar[dict[tuple[str, ...], str]]
    """Accepted sets of columns, each with its words for an error message."""

    prompt: Conversation
    """The turns up to the one that a response answers; a tuple if it was read from a row."""

    @classmethod
    @abstractmethod
    def from_row(cls, row: Row) -> Self:
        """Build the record from a row that is being checked. Raises RowError."""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Build the record from a raw row in any accepted shape. Raises RowError."""
        return cls.from_row(Row(raw, cls))


@dataclass(frozen=True)
class PreferencePair(Record):
    """Two responses to one prompt, and how likely the first is the better one."""

    columns: ClassVar = ("prompt", "chosen", "rejected", "preference")
    shapes: ClassVar = {
        ("prompt", "chosen", "rejected"): "the columns prompt, chosen and rejected",
        ("chosen", "rejected"): "chosen and rejected as message lists that begin with the same prompt",
    }

    chosen: str
    rejected: str
    preference: float = 1.0
    """Probability that `chosen` is the better response, in [0, 1]."""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Build the pair from a row that is being checked. Raises RowError."""
        implicit = "prompt" not in row and row.holds_list("chosen") and row.holds_list("rejected")
        prompt = row.shared_prompt("chosen", "rejected") if implicit else row.prompt()
        chosen, rejected = row.response("chosen", prompt), row.response("rejected", prompt)
        if chosen == rejected:
            raise RowError("chosen equals rejected", "rejected", _short.repr(rejected))
        return cls(prompt, chosen, rejected, row.probability("preference", default=1.0), row.extra())


@dataclass(frozen=True)
class AnchoredPrompt(Record):
    """A prompt for reinforcement learning, with the responses that an answer to it may be compared with."""

    columns: ClassVar = ("prompt", "anchor", "anchors")
    shapes: ClassVar = {("prompt",): "the column prompt", ("prompt", "anchor"): "the columns prompt and anchor"}

    anchors: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Build the prompt from a row that is being checked. Raises RowError."""
        prompt = row.prompt()
        return cls(prompt, row.responses("anchor", prompt) + row.responses("anchors", prompt), row.extra())


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
    def from_row(cls, row: Row) -> Self:
        """Build it from a row that is being checked; `completion` wins over `messages`. Raises RowError."""
        if "messages" in row and "completion" not in row:
            return cls(*row.dialogue("messages"), row.extra())
        prompt = row.prompt()
        return cls(prompt, row.response("completion", prompt), row.extra())


def prompt_key(prompt: Conversation) -> str:
    """Name a prompt by its content, so that rows of one prompt can be found and kept together."""
    canonical = json.dumps([[message["role"], message["content"]] for message in prompt])
    return hashlib.sha256(canonical.encode()).hexdigest()


def _checked_text(value: Any, where: str, expected: str = "text") -> str:
    if not isinstance(value, str):
        raise RowError("wrong type", where, _short.repr(value), expected=expected)
    if not value.strip():
        noun = "text" if where.startswith(("prompt", "messages")) else "response"
        raise RowError("empty text", where, _short.repr(value), fix=f"Give it a {noun} or remove the row.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"the lone surrogate {value[error.start]!r} at character {error.start}"
        raise RowError("undecodable text", where, found) from None
    return value


def _open_prompt(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    if messages[-1]["role"] == "assistant":
        raise RowError("assistant turn ends the prompt", where, _short.repr(messages[-1]["content"]))
    return messages


def _missing(name: str, found: list[str], kind: type[Record]) -> RowError:
    closest = max(kind.shapes, key=lambda shape: sum(column in found for column in shape) / len(shape))
    guess = get_close_matches(name, sorted(set(found) - set(kind.columns)), n=1) or ["<column in the file>"]
    columns = "columns " + (", ".join(map(repr, found)) or "none")
    fix = f"Add the column or map it: columns: {{{name}: {guess[0]}}}."
    return RowError("missing column", name, columns, expected=kind.shapes[closest], fix=fix)
