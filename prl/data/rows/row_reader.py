"""Reader of raw rows: checked values on the way to a record."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import takewhile
from typing import Any

from prl.data.rows.messages import cell_text, is_transcript, open_prompt, read_messages, read_transcript
from prl.data.rows.row_errors import LABELS, RowError, both_given, missing_column, shown
from prl.types import Conversation, Message

_OTHER_PROMPT = (
    "Put the same turns into the prompt, or leave it unread, so that it is what both responses begin with: "
    "columns: {prompt: null}."
)


_WRITTEN_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


class RowReader:
    """A raw row that returns checked values and records how it was read.

    Every method raises RowError for an invalid row. A null cell counts as absent.

    Args:
        raw: the cells by column.
        columns: columns that the kind of record reads.
        shapes: accepted sets of columns, each with its description for error messages.
        written: whether cells hold text alone, as in a .csv file, so that numbers are parsed from text.

    Attributes:
        shape: the columns that the record was made of; the kind of record sets it.
        label: the column of the label; empty where the kind has no labels.
        stripped: for each response, by its place in the row, how many characters of leading and trailing white space
            it lost.
        num_ties: pairs of a ranked list left out because their ranks are equal.
        dropped_message_keys: keys beside role and content that held a value in a message.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        columns: Sequence[str],
        shapes: Mapping[tuple[str, ...], str],
        written: bool = False,
    ) -> None:
        self._cells = {name: value for name, value in raw.items() if value is not None}
        self._nulls = raw.keys() - self._cells.keys()
        self._columns, self._shapes, self._written = columns, shapes, written
        self._read: set[str] = set()
        self.shape = ""
        self.label = ""
        self.stripped: dict[str, int] = {}
        self.num_ties = 0
        self.dropped_message_keys: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._cells

    def choose(self, options: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Choose the option whose columns are all there, else the one with most of them, the first of equals."""
        whole = [option for option in options if all(name in self for name in option)]
        if len(whole) > 1:
            raise both_given(whole[0], whole[1], "shape")
        return whole[0] if whole else max(options, key=lambda option: sum(name in self for name in option))

    def is_null(self, name: str) -> bool:
        """Return whether the column exists and its cell is empty."""
        return name in self._nulls

    def missing(self, name: str) -> RowError:
        """Build the error of a column that is missing, or that holds no value."""
        if self.is_null(name):
            fix = f"Fill the cell, remove the row, or leave the column unread: columns: {{{name}: null}}."
            return RowError("no value", name, "null", fix=fix if name in LABELS else "")
        return missing_column(name, list(self._cells), self._columns, self._shapes)

    def open_dialogue(self, name: str) -> tuple[Message, ...]:
        """Read messages that wait for an answer."""
        return open_prompt(self._messages(name, self.take(name)), name)

    def prompt(self) -> tuple[Message, ...]:
        """Read the explicit prompt."""
        value = self.take("prompt")
        if isinstance(value, list):
            return self.open_dialogue("prompt")
        return ({"role": "user", "content": cell_text(value, "prompt", "text or a list of messages")},)

    def prompt_of(self, first: str, second: str) -> tuple[tuple[Message, ...], str]:
        """Read the prompt of two responses, and the form it was found in: explicit, messages or transcripts."""
        values = [self._cells.get(name) for name in (first, second)]
        if "prompt" not in self and all(isinstance(value, list) for value in values):
            return self._shared_prompt(first, second), "messages"
        texts = [value for value in values if isinstance(value, str)]
        if "prompt" not in self and len(texts) == 2 and any(map(is_transcript, texts)):
            # From here on the row holds messages, so that responses are split off in one way.
            for name, text in zip((first, second), texts, strict=True):
                self._cells[name] = read_transcript(text, name)
            return self._shared_prompt(first, second), "transcripts"
        if "prompt" not in self and len(texts) == 2:
            cell_text(texts[0], first)  # then the error is not the missing prompt
        return self.prompt(), "explicit"

    def _shared_prompt(self, first: str, second: str) -> tuple[Message, ...]:
        """Return the turns with which two dialogues begin alike; the last turn of each is never part."""
        sides = [self._messages(name, self.take(name))[:-1] for name in (first, second)]
        shared = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False)))
        if not shared:
            raise RowError("no shared prompt", second, f"no common first message with '{first}'")
        return open_prompt(shared, first)

    def dialogue(self, name: str) -> tuple[tuple[Message, ...], str]:
        """Split a dialogue into the prompt and the last turn, which must be the assistant's."""
        messages = self._messages(name, self.take(name))
        if len(messages) < 2:
            raise RowError("no prompt", name, "one message")
        return open_prompt(messages[:-1], name), self.response(name, messages[:-1])

    def response(self, name: str, prompt: Conversation) -> str:
        """Read one response, stripped."""
        return self._response(name, self.take(name), prompt)

    def responses(self, name: str, prompt: Conversation) -> tuple[str, ...]:
        """Read no, one or several responses, stripped."""
        self._read.add(name)
        value = self._cells.get(name, [])
        if not isinstance(value, list) or (value and isinstance(value[0], Mapping)):
            return (self._response(name, value, prompt),)
        return tuple(self._response(f"{name}[{i}]", each, prompt) for i, each in enumerate(value))

    def number(self, name: str, reason: str, valid: Callable[[float], bool] = math.isfinite) -> float:
        """Read a number for which `valid` holds."""
        value = self.take(name)
        if self._written and _WRITTEN_NUMBER.fullmatch(value):
            value = float(value)
        return checked_number(value, name, reason, valid)

    def numbers(self, name: str, reason: str, count: int) -> list[float]:
        """Read a list of `count` finite numbers."""
        values = self.take(name)
        if not isinstance(values, list):
            raise RowError("not a list", name, shown(values))
        if len(values) != count:
            raise RowError("wrong number of entries", name, f"{len(values)} for {count} completions")
        return [checked_number(value, f"{name}[{i}]", reason, math.isfinite) for i, value in enumerate(values)]

    def extra(self) -> dict[str, Any]:
        """Return the columns that were not read."""
        return {name: value for name, value in self._cells.items() if name not in self._read}

    def take(self, name: str) -> Any:
        """Return the value of a column, of any type."""
        if name not in self:
            raise self.missing(name)
        self._read.add(name)
        return self._cells[name]

    def _response(self, where: str, value: Any, prompt: Conversation) -> str:
        if isinstance(value, list):
            messages = self._messages(where, value)
            repeats_prompt = messages[: len(prompt)] == tuple(prompt)
            answer = messages[len(prompt) :] if repeats_prompt else messages
            roles = [message["role"] for message in answer]
            if roles != ["assistant"]:
                found = ("messages of " + ", ".join(roles)) if roles else "no message"
                if repeats_prompt:
                    found += " after the prompt"
                elif len(roles) > 1:
                    found += ", which do not begin with the prompt"
                fix = "" if len(roles) < 2 or repeats_prompt else _OTHER_PROMPT
                raise RowError("not one assistant message", where, found, fix=fix)
            text = answer[0]["content"]
        else:
            text = cell_text(value, where, "text or a list with one assistant message")
        # White space at the ends differs by generator: a judge would learn the generator.
        stripped = text.strip()
        self.stripped[where] = len(text) - len(stripped)
        return stripped

    def _messages(self, where: str, value: Any) -> tuple[Message, ...]:
        messages, dropped = read_messages(value, where)
        self.dropped_message_keys |= dropped
        return messages


def checked_number(value: Any, where: str, reason: str, valid: Callable[[float], bool] = math.isfinite) -> float:
    """Return a value as the number that it is, one for which `valid` holds. Raises RowError."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RowError(reason, where, shown(value))
    try:
        number = float(value)
    except OverflowError:  # an integer with hundreds of digits
        number = math.inf
    except ValueError:  # a signalling NaN of decimal
        number = math.nan
    # NaN is never valid: every comparison with it is false.
    if not valid(number):
        raise RowError(reason, where, shown(value))
    return number
