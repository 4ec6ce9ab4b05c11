"""Prompt of a judge, T(x, u, v): instruction, prompt, response A, response B, question, and a slot for one token."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prl.data.chat import chat_settings, render_chat, set_chat_settings
from prl.data.templates import TemplateFailure, in_words, judge_template, render
from prl.data.thoughts import CLOSE, OPEN, opens_thoughts
from prl.judge.fences import without_fences
from prl.types import Conversation

DEFAULT_TEMPLATE = """\
Compare two responses to the same conversation and decide which one is better: more helpful, correct and honest. \
Their order means nothing.

# Conversation
{{ prompt }}

# Response A
{{ response_a }}

# Response B
{{ response_b }}

Which response is better, A or B? Answer with one letter."""

REASONING_TEXT = DEFAULT_TEMPLATE.replace(
    "Answer with one letter.", "Reason about it first, in a few sentences, then answer with one letter."
)

_FIELDS = ("prompt", "response_a", "response_b")


class VerdictTokenError(ValueError):
    """Raised for a verdict word that is not exactly one token of the tokenizer."""


def _marks() -> dict[str, str]:
    """Return a text for each content that stands for it in a rendered template."""
    return {name: f"\U000f0000{name}\U000f0001" for name in _FIELDS}  # private characters: in no sensible template


@dataclass(frozen=True)
class JudgeTemplate:
    """Prompt of a comparison.

    Raises:
        ValueError: when the text is not Jinja, a field is missing from it or the two verdict words are the same.
    """

    text: str = DEFAULT_TEMPLATE
    """Jinja template with prompt, response_a and response_b, each exactly once."""
    verdicts: tuple[str, str] = ("A", "B")
    """Words for "the response shown first is better" and "the response shown second is better": one token each."""
    chat: bool = True
    """Put the text into a user turn of the model's own chat template, where the tokenizer has one."""
    answer_prefix: str = ""
    """Text of the answer before the verdict word."""

    def __post_init__(self) -> None:
        if len(self.verdicts) != 2 or self.verdicts[0] == self.verdicts[1]:
            raise ValueError(f"template.verdicts is {self.verdicts!r}; expected two different words")
        marks = _marks()
        try:
            rendered = render(judge_template(self.text), marks)
        except TemplateError as error:
            raise ValueError(f"template.text is not a Jinja template, {in_words(error)}") from None
        except TemplateFailure as error:
            raise ValueError(f"template.text cannot be rendered: {error}") from None
        for name, mark in marks.items():
            if rendered.count(mark) != 1:
                raise ValueError(
                    f"template.text shows {{{{ {name} }}}} {rendered.count(mark)} times; expected exactly once"
                )

    @property
    def fingerprint(self) -> str:
        """Hash everything that changes what the judge reads."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def render_conversation(messages: Conversation) -> str:
    """Render a conversation for the judge: the text of a single user turn, or several turns with their speakers."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def render_text(template: JudgeTemplate, prompt: Conversation, first: str, second: str) -> str:
    """Render a comparison as plain text, for a judge with its own tokenizer; contents forge no tag of the template."""
    contents = {"prompt": render_conversation(prompt), "response_a": first, "response_b": second}
    contents = {name: without_fences(template.text, text) for name, text in contents.items()}
    return render(judge_template(template.text), contents)


@dataclass(frozen=True)
class CompiledTemplate:
    """A template in token ids: literal pieces around the three contents, and the two verdict tokens."""

    pieces: tuple[tuple[int, ...], ...]
    """Four literal pieces; the contents stand between them in the order of `fields`."""
    fields: tuple[str, str, str]
    """Order of the contents."""
    verdict_ids: tuple[int, int]
    closing: tuple[int, ...] = ()
    """Tokens between a thought and the verdict, the answer prefix included; none where there are no thoughts."""
    end_of_thoughts: tuple[int, ...] = ()
    """Tokens in front of these that end what the chat template opens, `<think>`; none where it opens nothing."""

    @property
    def num_literal_tokens(self) -> int:
        """Number of tokens of the template alone."""
        return sum(len(piece) for piece in self.pieces)


def compile_template(
    template: JudgeTemplate, tokenizer: PreTrainedTokenizerBase, closing: str | None = None
) -> CompiledTemplate:
    """Tokenise the literal parts once and check the verdict words.

    Contents are tokenised apart and placed between the pieces: a response can neither forge a special token nor
    merge with the template around it, and truncation never touches the verdict slot.

    Args:
        template: prompt of a comparison.
        tokenizer: the judge's.
        closing: text behind a thought. The pieces then end where the thought begins, and what is behind it, with the
            answer prefix, is `CompiledTemplate.closing`.

    Raises:
        VerdictTokenError: when a verdict word is not exactly one token after the answer prefix.
        ValueError: when the chat template fails, or would change the contents.
    """
    marks = _marks()
    answer_prefix = template.answer_prefix
    if closing is not None:
        template = replace(template, answer_prefix="")
    text = _framed(template, tokenizer, marks)
    _check_contents_stay(template, tokenizer, marks, text)
    fields = sorted(_FIELDS, key=lambda name: text.index(marks[name]))
    literals = []
    for name in fields:
        literal, text = text.split(marks[name], 1)
        literals.append(literal)
    literals.append(text)
    pieces = [tokenizer.encode(literal, add_special_tokens=False) for literal in literals]
    # A chat template writes the BOS token itself; without a template the model still expects it.
    bos = tokenizer.bos_token_id
    if bos is not None and not (template.chat and tokenizer.chat_template) and _adds_bos(tokenizer):
        pieces[0] = [bos, *pieces[0]]
    ending = None if closing is None else closing + answer_prefix
    opened = ending is not None and literals[-1].rstrip().endswith(OPEN) and CLOSE not in ending
    before = literals[-1] if ending is None else ending
    verdict_ids = [_verdict_id(tokenizer, before, word) for word in template.verdicts]
    if verdict_ids[0] == verdict_ids[1]:
        raise VerdictTokenError(f"verdict words {template.verdicts!r} are the same token {verdict_ids[0]}")
    return CompiledTemplate(
        tuple(tuple(piece) for piece in pieces),
        (fields[0], fields[1], fields[2]),
        (verdict_ids[0], verdict_ids[1]),
        () if ending is None else tuple(tokenizer.encode(ending, add_special_tokens=False)),
        tuple(tokenizer.encode(f"\n{CLOSE}", add_special_tokens=False)) if opened else (),
    )


def without_thinking(
    template: JudgeTemplate, tokenizer: PreTrainedTokenizerBase, *, sampled: bool = False
) -> JudgeTemplate:
    """Have a chat template that makes a model think leave the thoughts empty: the verdict is the next token.

    Where the chat template has the variable `enable_thinking`, it is set to false for this tokenizer, unless its own
    settings have it. Where the beginning of a response opens thoughts all the same, the answer prefix closes them,
    unless a thought is to be `sampled` there.
    """
    if not template.chat or not tokenizer.chat_template:
        return template
    told = chat_settings(tokenizer).kwargs
    if "enable_thinking" in tokenizer.get_chat_template() and "enable_thinking" not in told:
        set_chat_settings(tokenizer, {**told, "enable_thinking": False})
    if not sampled and opens_thoughts(tokenizer) and CLOSE not in template.answer_prefix:
        return replace(template, answer_prefix=f"\n{CLOSE}\n\n{template.answer_prefix}")
    return template


def _framed(template: JudgeTemplate, tokenizer: PreTrainedTokenizerBase, contents: dict[str, str]) -> str:
    """Render a comparison up to the verdict."""
    text = render(judge_template(template.text), contents)
    if template.chat and tokenizer.chat_template:
        try:
            text = render_chat(tokenizer, [{"role": "user", "content": text}])
        except TemplateFailure as error:
            raise ValueError(f"{_chat_template_of(tokenizer)} refuses the judge's template: {error}") from None
    return text + template.answer_prefix


def _check_contents_stay(
    template: JudgeTemplate, tokenizer: PreTrainedTokenizerBase, marks: dict[str, str], text: str
) -> None:
    """Refuse a chat template that changes messages, as by JSON: contents are placed without it."""
    odd = {name: f'{mark[0]} "a\\\n\n <B> é\t{mark[1:]}' for name, mark in marks.items()}
    expected = text
    for name, mark in marks.items():
        expected = expected.replace(mark, odd[name])
    if _framed(template, tokenizer, odd) != expected:
        raise ValueError(
            f"{_chat_template_of(tokenizer)} changes the text of messages, as by tojson, and a judge must read texts "
            "as they are; set template.chat to false"
        )


def _chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path or type(tokenizer).__name__}"


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.encode("x", add_special_tokens=True)[:1] == [tokenizer.bos_token_id]


def _verdict_id(tokenizer: PreTrainedTokenizerBase, before: str, word: str) -> int:
    """Find the id of a verdict word in context: text and word tokenised together must add exactly one token."""
    context = tokenizer.encode(before, add_special_tokens=False)
    with_word = tokenizer.encode(before + word, add_special_tokens=False)
    added = with_word[len(context) :]
    if with_word[: len(context)] != context or len(added) != 1 or added[0] == tokenizer.unk_token_id:
        shown = tokenizer.convert_ids_to_tokens(tokenizer.encode(word, add_special_tokens=False))
        raise VerdictTokenError(
            f"verdict word {word!r} is written as {len(added)} tokens {shown} after the answer prefix; expected "
            "exactly one known token. Choose words such as 'A' and 'B', or change template.answer_prefix or "
            "reasoning.closing"
        )
    return added[0]
