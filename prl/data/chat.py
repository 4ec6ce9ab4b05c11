"""Conversations through a model's chat template: as text, and as tokens that keep contents apart from the frame.

The text is that of `apply_chat_template`. What decides it beside the messages, the template's own settings and the date
that it may write, belongs to the tokenizer and is saved with it: a judge reads what it was trained with, on any day.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase

from prl.data.marks import Marks, marks_of
from prl.data.templates import TemplateFailure, chat_environment, in_words, render
from prl.types import Conversation

log = logging.getLogger(__name__)

FIXED_DATE = "2024-07-26"
"""Default date of chat templates: the one that Llama's templates use without a clock."""
_KEY = "prl_chat"


@dataclass(frozen=True)
class ChatSettings:
    """Inputs of a chat template besides the messages."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the template, such as `enable_thinking`."""
    date: str = FIXED_DATE
    """Date for a template that writes it: YYYY-MM-DD."""


def chat_settings(tokenizer: PreTrainedTokenizerBase) -> ChatSettings:
    """Return the chat template settings of a tokenizer."""
    return ChatSettings(**tokenizer.init_kwargs.get(_KEY, {}))


def set_chat_settings(
    tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any] | None = None, date: str | None = None
) -> None:
    """Set the chat template's settings; None keeps those saved with the tokenizer."""
    found = chat_settings(tokenizer)
    kwargs, date = dict(found.kwargs if kwargs is None else kwargs), found.date if date is None else date
    if kwargs or reads_clock(tokenizer) or _KEY in tokenizer.init_kwargs:
        tokenizer.init_kwargs[_KEY] = asdict(ChatSettings(kwargs, date))
    if reads_clock(tokenizer):
        _tell_date(tokenizer.name_or_path, date)


@lru_cache
def _tell_date(name: str, date: str) -> None:
    log.warning(
        "the chat template of %s writes the date; prl always tells it %s, so that a model reads the same text on any "
        "day (set chat_template_date at the model for another)",
        name,
        date,
    )


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a chat template asks for the date."""
    return bool(tokenizer.chat_template) and "strftime_now" in tokenizer.get_chat_template()


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, generation_prompt: bool = True) -> str:
    """Render a conversation as text, with the beginning of a response at its end.

    Raises:
        TemplateFailure: when the template refuses the conversation, or fails.
    """
    return _render(tokenizer, _compiled(tokenizer.get_chat_template()), messages, generation_prompt)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, generation_prompt: bool = True
) -> list[int]:
    """Encode `render_chat` as token ids. A mark written inside a message is encoded as plain characters.

    Raises:
        TemplateFailure: when the template refuses the conversation or fails, or reads a mark in a message in a way that
            leaves its own marks and the message's indistinguishable.
    """
    return marks_of(tokenizer).encode(frame_chat(tokenizer, messages, generation_prompt=generation_prompt))


def frame_chat(tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, generation_prompt: bool = True) -> str:
    """Render the text of `render_chat` with aliases (`Marks`) for the marks that the template writes."""
    text, marks = render_chat(tokenizer, messages, generation_prompt=generation_prompt), marks_of(tokenizer)
    if any(marks.found_in(message["content"]) for message in messages):
        return _Frame(tokenizer, marks, messages, generation_prompt).aliased(text)
    return marks.replace(text, marks.aliases)


class _Frame:
    """Finds the marks in a rendered conversation that the template has written.

    The text is never changed: a way to tell is accepted only if it renders this very text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, marks: Marks, messages: Conversation, generation_prompt: bool
    ) -> None:
        self.tokenizer, self.marks, self.messages = tokenizer, marks, messages
        self.generation_prompt = generation_prompt
        contents = "".join(message["content"] for message in messages)
        free = (chr(code) for code in range(0x100000, 0x10FFFE) if chr(code) not in contents)
        self.stand_ins = {mark: next(free) * len(mark) for mark in dict.fromkeys(marks.all_in(contents))}

    def aliased(self, text: str) -> str:
        """Replace the template's marks by aliases.

        Raises:
            TemplateFailure: when they cannot be distinguished from marks in the messages.
        """
        template = _compiled(self.tokenizer.get_chat_template())
        plain = [mark for mark in self.stand_ins if self._restored(self._render(template, [mark])) == text]
        read = [mark for mark in self.stand_ins if mark not in plain]  # by the template, as where it cuts thoughts
        if read:
            template = _aliased_template(self.tokenizer, self.marks, tuple(read))
        found = self._render(template, plain, {mark: self.marks.aliases[mark] for mark in read})
        if self.marks.put_names(self._restored(found)) != text:
            shown = ", ".join(map(repr, read or plain))
            raise TemplateFailure(f"it reads {shown} in a message, which then cannot be told from the template's own")
        written = {mark: alias for mark, alias in self.marks.aliases.items() if mark not in read}
        return self._restored(self.marks.replace(found, written))

    def _render(self, template: Template, hidden: list[str], aliases: Mapping[str, str] | None = None) -> str:
        """Render the conversation with stand-ins for some marks of the messages."""
        hide = {mark: self.stand_ins[mark] for mark in hidden}
        messages = [{**message, "content": self.marks.replace(message["content"], hide)} for message in self.messages]
        return _render(self.tokenizer, template, messages, self.generation_prompt, aliases or {})

    def _restored(self, text: str) -> str:
        for mark, stand_in in self.stand_ins.items():
            text = text.replace(stand_in, mark)
        return text


@lru_cache
def _compiled(text: str) -> Template:
    try:
        return chat_environment().from_string(text)
    except TemplateError as error:
        raise TemplateFailure(f"it is not a Jinja template, {in_words(error)}") from None


@lru_cache
def _aliased_template(tokenizer: PreTrainedTokenizerBase, marks: Marks, names: tuple[str, ...]) -> Template:
    """Replace the marks that a chat template writes by aliases; marks that it searches for stay."""
    environment = chat_environment()
    tree = _Aliasing(marks, names).visit(environment.parse(tokenizer.get_chat_template()))
    return environment.from_string(tree)


class _Aliasing(NodeTransformer):
    def __init__(self, marks: Marks, names: tuple[str, ...]) -> None:
        self.alias = lambda text: marks.replace(text, {name: marks.aliases[name] for name in names})

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.TemplateData:
        node.data = self.alias(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Const:
        if isinstance(node.value, str):
            node.value = self.alias(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        node.node = self.visit(node.node)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Call:
        if isinstance(node.node, nodes.Getattr) and node.node.attr not in ("format", "join"):
            node.node = self.visit(node.node)  # a method of a text, as split: its arguments are looked for
            return node
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        looked_for = node.args[:1] if node.name == "replace" else []
        node.args = node.args[len(looked_for) :]
        self.generic_visit(node)
        node.args = [*looked_for, *node.args]
        return node


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    messages: Conversation,
    generation_prompt: bool,
    aliases: Mapping[str, str] | None = None,
) -> str:
    settings = chat_settings(tokenizer)
    today = datetime.fromisoformat(settings.date)
    names = {name: (aliases or {}).get(value, value) for name, value in tokenizer.special_tokens_map.items()}
    return render(
        template,
        {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": generation_prompt,
            "strftime_now": today.strftime,
            **names,
            **settings.kwargs,
        },
    )
