"""A model's own turn in its chat template: the text around it, and the token that ends it."""

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from prl.data.chat import frame_chat
from prl.data.marks import Marks, marks_of
from prl.data.templates import TemplateFailure
from prl.data.thoughts import CLOSE, OPEN
from prl.types import Conversation

_PROBE = "Hello"


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids with which a model ends its turn.

    They are the ids that the chat template writes behind the text up to the first special token, or else the
    end-of-sequence token.
    """
    end, _ = _end(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    if not end:
        return [int(tokenizer.eos_token_id)]
    marks = marks_of(tokenizer)
    return marks.encode(_PROBE + end)[len(marks.encode(_PROBE)) :]


def encode_turn(
    tokenizer: PreTrainedTokenizerBase, prompt: Conversation, prompt_ids: list[int], text: str
) -> tuple[list[int], list[int]]:
    """Encode a model's turn behind its prompt, with its end.

    Prompt and turn together are the beginning of the whole dialogue as the chat template writes it, where that begins
    like the prompt alone; otherwise the turn follows the prompt directly. Thoughts in front of an answer keep their
    marks, which a model writes itself; any other mark in the text is encoded as characters.

    Raises:
        TemplateFailure: when the template refuses the dialogue.
    """
    marks, end = marks_of(tokenizer), end_of_turn(tokenizer)
    begins = frame_chat(tokenizer, prompt)
    whole = frame_chat(tokenizer, [*prompt, {"role": "assistant", "content": text}], generation_prompt=False)
    _, behind = _end(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    if not whole.startswith(begins) or not whole.endswith(behind):
        if marks.put_names(begins).rstrip().endswith(OPEN) and text.lstrip().startswith(OPEN):
            text = text.lstrip()  # the prompt has it already
            return marks.encode(_thinking(marks, text)[len(_thinking(marks, OPEN)) :].lstrip()), end
        return marks.encode(_thinking(marks, text)), end
    turn = _thinking(marks, whole[len(begins) : len(whole) - len(behind)])
    ids = marks.encode(begins + turn)
    if ids[: len(prompt_ids)] != prompt_ids:  # a token across the border, which sampling cannot produce
        return marks.encode(turn), end
    return ids[len(prompt_ids) :], end


def encode_reply(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, text: str) -> list[int]:
    """Encode what another says behind a model's turn, and all that the template writes up to the model's next turn.

    Args:
        tokenizer: the model's.
        prompt: messages in front of the model's turn.
        text: the other's turn, as of a user; marks in it are encoded as characters.

    Raises:
        TemplateFailure: when the template refuses the dialogue.
        ValueError: for a tokenizer without a chat template, or one whose turns cannot be told apart.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template, which would say how a dialogue goes on "
            "behind a turn; take an instruct model, or set a template"
        )
    end, behind = _end(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    probe = _PROBE
    while probe in text:  # which may hold what stands behind a turn as well, in a template without special tokens
        probe += _PROBE[-1]
    dialogue = [*prompt, {"role": "assistant", "content": probe}, {"role": "user", "content": text}]
    _, found, rest = frame_chat(tokenizer, dialogue).rpartition(probe + behind)
    if not found:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} writes the end of a turn differently when another turn "
            "follows, so that an answer cannot be put behind what the model has said"
        )
    marks, ended = marks_of(tokenizer), probe + end
    return marks.encode(ended + behind[len(end) :] + rest)[len(marks.encode(ended)) :]


@lru_cache
def _end(tokenizer: PreTrainedTokenizerBase, template: str, _: int) -> tuple[str, str]:
    """Return the end of a turn, and all template text behind it, with aliases; both empty without an end."""
    if not tokenizer.chat_template:
        return "", ""
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = frame_chat(tokenizer, turns, generation_prompt=False)
    except TemplateFailure:
        return "", ""
    behind, marks = text.rpartition(_PROBE)[2], marks_of(tokenizer)
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    places = [
        behind.find(alias) + len(alias) for mark, alias in marks.aliases.items() if mark in special and alias in behind
    ]
    return (behind[: min(places)] if places else ""), behind


def _thinking(marks: Marks, turn: str) -> str:
    """Put the thoughts at the beginning of a turn between marks."""
    if not turn.lstrip().startswith(OPEN):
        return turn
    for mark in (OPEN, CLOSE):
        turn = turn.replace(mark, marks.aliases.get(mark, mark), 1)
    return turn
