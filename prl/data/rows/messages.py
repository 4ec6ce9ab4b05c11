"""Dialogues in any accepted shape, read as lists of messages with role and content.

- `{"role": "user", "content": "Hi?"}`
- ShareGPT's `{"from": "human", "value": "Hi?"}`
- transcripts, text with the turns marked as in Anthropic's hh-rlhf: `\\n\\nHuman: Hi?\\n\\nAssistant: Hello.`
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from prl.data.rows.row_errors import RowError, shown
from prl.types import ROLES, Conversation, Message

# (key of the role, key of the text, the role's name -> ours)
_FORMS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("role", "content", {role: role for role in ROLES}),
    ("from", "value", {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}),
)
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_WRITTEN = re.compile(rf"""["'](role|from)["']\s*:\s*["']({"|".join(_FORMS[1][2])})["']""")
_TURN = re.compile(r"\n\n(Human|Assistant):")


def read_messages(value: Any, where: str) -> tuple[tuple[Message, ...], set[str]]:
    """Read a list of messages, and the keys that held a value and are dropped. Raises RowError."""
    if not isinstance(value, list):
        raise RowError("wrong type", where, shown(value), expected="a list of messages")
    if not value:
        raise RowError("empty message list", where, "[]")
    read = [_read_message(message, f"{where}[{i}]") for i, message in enumerate(value)]
    return tuple(message for message, _ in read), set().union(*(dropped for _, dropped in read))


def _read_message(value: Any, where: str) -> tuple[Message, set[str]]:
    if not isinstance(value, Mapping):
        raise RowError("not a message", where, shown(value))
    filled = {key for key, item in value.items() if item is not None}
    # A table that holds messages of both forms has every key in every message, most of them null.
    forms = [form for form in _FORMS if {form[0], form[1]} <= value.keys() and filled & {form[0], form[1]}]
    if not forms:
        raise RowError("not a message", where, shown(value))
    role_key, text_key, names = forms[0]
    role = value[role_key]
    if not isinstance(role, str) or role not in names:
        raise RowError(
            "unknown role",
            f"{where}.{role_key}",
            shown(role),
            expected="one of " + ", ".join(names),
            fix="Rename the role or remove the row.",
        )
    message = {"role": names[role], "content": checked_text(value[text_key], f"{where}.{text_key}")}
    return message, filled - {role_key, text_key}


def is_transcript(text: str) -> bool:
    """Return whether a text begins with a marked turn."""
    return _TURN.match("\n\n" + text.lstrip("\n")) is not None


def read_transcript(text: str, where: str) -> list[Message]:
    """Split a transcript into turns, each without the one space that follows its mark. Raises RowError.

    A mark inside a turn starts a new one: the format has no way to quote it.
    """
    if not is_transcript(text):
        raise RowError("not a transcript", where, shown(text))
    parts = _TURN.split("\n\n" + text.lstrip("\n"))[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [
        {"role": _SPEAKERS[speaker], "content": checked_text(content.removeprefix(" "), f"{where}, turn {number}")}
        for number, (speaker, content) in enumerate(turns, start=1)
    ]


def checked_text(value: Any, where: str, expected: str = "text") -> str:
    """Check that a text is not empty and can be encoded. Raises RowError."""
    if not isinstance(value, str):
        raise RowError("wrong type", where, shown(value), expected=expected)
    if not value.strip():
        noun = "text" if where.startswith(("prompt", "messages")) else "response"
        raise RowError("empty text", where, shown(value), fix=f"Give it a {noun} or remove the row.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"the lone surrogate {value[error.start]!r} at character {error.start}"
        raise RowError("undecodable text", where, found) from None
    return value


def cell_text(value: Any, where: str, expected: str = "text") -> str:
    """Check the text of a whole cell, and refuse a list of messages written as text. Raises RowError.

    A table without lists (.csv) has such cells; read as text, a model would learn brackets and quotes.
    """
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1] == "]" and _WRITTEN.search(value):
        raise RowError("messages as text", where, shown(value))
    return checked_text(value, where, expected)


def odd_order(messages: Conversation) -> str | None:
    """Describe what is unusual in the order of roles; None for turns of user and assistant behind at most one system.

    Templates of the ChatML family write any order, those of Llama 2, Mistral and Gemma refuse all but this one, and
    models have seen hardly another in training.
    """
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return "a system message behind the first message"
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[:1] == ["assistant"]:
        return "an assistant message begins the conversation"
    for one, other in pairwise(turns):
        if one == other != "tool":  # several calls have several results
            return f"two {one} messages in a row"
    return None


def open_prompt(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Check that a prompt leaves something to respond to. Raises RowError."""
    if messages[-1]["role"] == "assistant":
        raise RowError("assistant turn ends the prompt", where, shown(messages[-1]["content"]))
    return messages
