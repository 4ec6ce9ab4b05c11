"""Truncation of conversations: oldest whole turns first, part of a turn last.

A prompt starts within a turn only where leaving out turns is not enough. The rest starts with a system message or a
user's turn, as chat templates demand.
"""

from bisect import bisect_left
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from prl.data.marks import encode_content
from prl.data.tokens import TooLongError, Truncation
from prl.types import Conversation

Encode = Callable[[Conversation], list[int]]
"""Encodes a prompt as token ids, template included."""


def fit_prompt(
    messages: Conversation,
    ids: list[int],
    encode: Encode,
    tokenizer: PreTrainedTokenizerBase,
    *,
    room: int,
    last_room: int | None = None,
) -> tuple[list[int], Truncation]:
    """Fit a prompt into the room: return its ids, and what was truncated.

    The oldest turns are left out first, then the system message, then the beginning of the last turn.

    Args:
        messages: the prompt.
        ids: the full prompt, encoded by `encode`.
        encode: encodes a prompt with its template.
        tokenizer: the tokenizer of `encode`.
        room: tokens for the prompt as long as turns can be left out; may be negative.
        last_room: tokens for the prompt after that, when responses are truncated too; `room` if None.

    Raises:
        TooLongError: when not one token of text fits beside the template.
    """
    truncation = Truncation(0)
    last_room = room if last_room is None else last_room
    if len(ids) > room and len(kept := leave_out_oldest(messages, encode, room)) < len(messages):
        messages, ids, truncation = kept, encode(kept), Truncation.TURNS
    if len(ids) > last_room and len(kept := leave_out_system(messages)) < len(messages):
        messages, ids, truncation = kept, encode(kept), Truncation.TURNS
    if len(ids) > last_room:
        ids, truncation = cut_beginning(messages, encode, last_room, tokenizer), truncation | Truncation.PROMPT
    return ids, truncation


def leave_out_oldest(messages: Conversation, encode: Encode, room: int) -> Conversation:
    """Leave out as few of the oldest turns as make a prompt of more than `room` tokens fit.

    System messages at the beginning stay, and so does the last user's turn with what follows it; where nothing fits,
    only these are left. The number of turns is found by bisection: a dialogue of n turns is tokenised log n times.
    """
    head = _num_system(messages)
    starts = [i for i in range(head, len(messages)) if messages[i]["role"] == "user"]
    kept = [[*messages[:head], *messages[start:]] for start in starts if start > head]
    if not kept:
        return messages
    fits = bisect_left(range(len(kept) - 1), True, key=lambda i: len(encode(kept[i])) <= room)
    return kept[fits]


def leave_out_system(messages: Conversation) -> Conversation:
    """Drop the system messages at the beginning of a conversation; a conversation without other turns is unchanged."""
    return messages[_num_system(messages) :] or messages


def cut_beginning(messages: Conversation, encode: Encode, room: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cut the beginning of a prompt's text until its ids fit; the template around it stays whole.

    Raises:
        TooLongError: when not one token of text fits beside the template.
    """
    messages = list(messages)
    ids = encode(messages)
    for number, message in enumerate(messages):
        while len(ids) > room and message["content"]:
            message = {**message, "content": _tail(tokenizer, message["content"], len(ids) - room)}
            messages[number] = message
            ids = encode(messages)
    if len(ids) > room or not any(message["content"] for message in messages):
        raise TooLongError(
            f"a prompt has {room} tokens left, and its template takes more; raise max_length (PPO: max_prompt_length)"
        )
    return ids


def _num_system(messages: Conversation) -> int:
    return next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))


def _tail(tokenizer: PreTrainedTokenizerBase, text: str, num_lost: int) -> str:
    """Drop the first tokens of a text; the result is always shorter."""
    ids = encode_content(tokenizer, text)
    if num_lost >= len(ids):
        return ""
    if not tokenizer.is_fast:
        shorter = str(tokenizer.decode(ids[num_lost:], clean_up_tokenization_spaces=False))
        return shorter if len(shorter) < len(text) else text[1:]
    offsets = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    starts = [start for start, _ in offsets["offset_mapping"]]  # a text that quotes a mark has more tokens than these
    return text[max(starts[min(num_lost, len(starts) - 1)], 1) :]
