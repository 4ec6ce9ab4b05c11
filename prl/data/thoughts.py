"""Thoughts of a model before its answer: `<think> ... </think>` in front of the answer."""

from transformers import PreTrainedTokenizerBase

from prl.data.chat import render_chat
from prl.data.templates import TemplateFailure

OPEN, CLOSE = "<think>", "</think>"


def without_thoughts(text: str, *, opened: bool = False) -> str:
    """Return the answer alone: the text after the first `</think>`; empty where the thoughts do not end.

    A text that does not begin with thoughts is unchanged, also where it mentions these marks.

    Args:
        text: text of a model.
        opened: whether the prompt ends with `<think>`, so that the text begins within the thoughts.
    """
    if not opened and not text.lstrip().startswith(OPEN):
        return text
    return text.partition(CLOSE)[2].lstrip()


def opens_thoughts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a prompt ends with `<think>`, as some chat templates write it."""
    try:
        text = render_chat(tokenizer, [{"role": "user", "content": "Hi?"}]) if tokenizer.chat_template else ""
    except TemplateFailure:  # the template may refuse this conversation and accept others
        return False
    return text.rstrip().endswith(OPEN)
