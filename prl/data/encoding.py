"""Encoders of conversations for policies, supervised training and the scalar baseline."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.chat import encode_chat
from prl.data.columns import number_tensors, read_numbers, read_optional
from prl.data.fitting import fit_prompt
from prl.data.marks import encode_content
from prl.data.rows.records import AnchoredPrompt, Demonstration, PreferencePair
from prl.data.rows.row_errors import RowError
from prl.data.templates import TemplateFailure
from prl.data.tokens import (
    EncodingCounts,
    OnTooLong,
    TooLongError,
    Truncation,
    check_one_bos,
    left_pad,
    pair_facts,
    pair_tensors,
    right_pad,
    settings_hash,
    tokenizer_hash,
)
from prl.data.turns import encode_turn
from prl.types import Conversation, PromptBatch


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> list[int]:
    """Encode a conversation up to the start of the response, through the model's chat template where it has one.

    A mark written inside a message (`prl.data.marks`) is encoded as plain characters.

    Raises:
        RowError: when the chat template refuses the conversation.
        ValueError: when the result starts with two beginning-of-sequence tokens.
    """
    if tokenizer.chat_template:
        try:
            ids = encode_chat(tokenizer, messages)
        except TemplateFailure as error:
            raise refused_by_template(messages, error) from None
    else:
        text = "\n\n".join(message["content"] for message in messages)
        ids = list(tokenizer(text, split_special_tokens=True)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()  # some tokenizers close every text
    check_one_bos(tokenizer, ids, "the chat template" if tokenizer.chat_template else "the text of a prompt")
    return ids


def refused_by_template(messages: Conversation, error: TemplateFailure) -> RowError:
    """Build the row error of a conversation that a chat template refuses."""
    roles = ", ".join(message["role"] for message in messages[:6]) + (", ..." if len(messages) > 6 else "")
    return RowError("refused by the chat template", "prompt", f"messages of {roles}, of which it says: {error}")


class _Encoder:
    """Base of the encoders in this file: a tokenizer, a maximum length, and counts of truncations."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
    ) -> None:
        self.tokenizer, self.max_length, self.on_too_long = tokenizer, max_length, on_too_long
        self.counts = EncodingCounts()

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        return settings_hash(type(self).__name__, tokenizer_hash(self.tokenizer), self.max_length, self.on_too_long)

    def _encode_prompt(self, messages: Conversation) -> list[int]:
        return encode_prompt(self.tokenizer, messages)


class ConversationEncoder(_Encoder):
    """Prompt and response in one row, the response closed by the end-of-sequence token.

    Args:
        tokenizer: the model's tokenizer.
        max_length: longest row in tokens.
        on_too_long: error, truncate (counted) or skip (counted). The end-of-sequence token stays. `fit_prompt`
            gives the order of truncation; the response loses its end down to half of the row before the prompt's last
            turn is touched.
    """

    closes_cut_responses = True
    """Whether a truncated response is closed by the end-of-sequence token too."""

    def encode_response(self, prompt: Conversation, response: str, reserved: int = 0) -> dict[str, Any] | None:
        """Encode prompt and response; return ids and the number that belong to the response.

        None when skipped for its length. `reserved` tokens of the row stay free for what follows.

        Raises:
            TooLongError: when it does not fit and `on_too_long` is error.
        """
        prompt_ids = self._encode_prompt(prompt)
        response_ids, end = self._encode_response(prompt, prompt_ids, response)
        room = self.max_length - len(end) - reserved
        total, truncation = len(prompt_ids) + len(response_ids), Truncation(0)
        if total > room and self.on_too_long == "error":
            raise TooLongError(
                f"prompt and response take {total + len(end) + reserved} tokens, max_length is {self.max_length}; "
                "raise max_length or set on_too_long"
            )
        if total > room and self.on_too_long == "skip":
            self.counts.add(Truncation.TOO_LONG)
            return None
        if total > room:
            prompt_ids, truncation = fit_prompt(
                prompt,
                prompt_ids,
                self._encode_prompt,
                self.tokenizer,
                room=room - len(response_ids),
                last_room=room - min(len(response_ids), room // 2),
            )
        if len(prompt_ids) + len(response_ids) > room:
            response_ids, truncation = response_ids[: room - len(prompt_ids)], truncation | Truncation.RESPONSES
        self.counts.add(truncation)
        if truncation & Truncation.RESPONSES and not self.closes_cut_responses:
            end = []
        return {"ids": [*prompt_ids, *response_ids, *end], "num_response": len(response_ids) + len(end)}

    def encode_alone(self, prompt: Conversation) -> list[int]:
        """Encode a prompt without a response, cut to fit as one with an empty response; the cut is not counted again.

        Raises:
            RowError: for a prompt without a token.
        """
        ids, room = self._encode_prompt(prompt), self.max_length - 1
        if len(ids) > room:
            ids, _ = fit_prompt(prompt, ids, self._encode_prompt, self.tokenizer, room=room)
        if not ids:
            raise RowError("no token", "prompt", "an empty text, whose last token a prompt head would read")
        return ids

    def _encode_response(
        self, prompt: Conversation, prompt_ids: list[int], response: str
    ) -> tuple[list[int], list[int]]:
        """Encode the response and its end of turn."""
        return encode_content(self.tokenizer, response), [int(self.tokenizer.eos_token_id)]


class TurnEncoder(ConversationEncoder):
    """Prompt and response as a policy writes them, the response closed by the end of the turn.

    A row is the beginning of the whole dialogue as the chat template writes it, up to the end of its last turn. Where
    the template writes the prompt differently inside a dialogue, the completion follows the prompt directly.
    """

    closes_cut_responses = False  # or the model would learn to stop in the middle of a sentence

    def _encode_response(
        self, prompt: Conversation, prompt_ids: list[int], response: str
    ) -> tuple[list[int], list[int]]:
        if not self.tokenizer.chat_template:
            return super()._encode_response(prompt, prompt_ids, response)
        try:
            return encode_turn(self.tokenizer, prompt, prompt_ids, response)
        except TemplateFailure as error:
            raise refused_by_template([*prompt, {"role": "assistant", "content": response}], error) from None


class DemonstrationEncoder(TurnEncoder):
    """Demonstrations for the supervised stage: the loss is on the completion only."""

    def encode(self, record: Demonstration) -> dict[str, Any] | None:
        """Encode one row; None when it is skipped."""
        row = self.encode_response(record.prompt, record.completion)
        return row and {**row, "length": len(row["ids"])}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate right-padded input_ids and attention_mask [B, S]; loss_mask [B, S] is True on completion tokens."""
        ids, mask = right_pad([row["ids"] for row in rows], int(self.tokenizer.pad_token_id))
        prompt_lengths = torch.tensor([len(row["ids"]) - row["num_response"] for row in rows])
        after_prompt = torch.arange(ids.shape[1]) >= prompt_lengths[:, None]
        return {"input_ids": ids, "attention_mask": mask, "loss_mask": mask & after_prompt}


class ScalarPairEncoder(ConversationEncoder):
    """Preference pairs for a scalar reward model: each response in a row of its own.

    Args:
        tokenizer: the model's tokenizer.
        max_length: longest row in tokens.
        on_too_long: error, truncate (counted) or skip (counted), as `ConversationEncoder` has it.
        columns: columns of the rows that hold a number, for the objective.
        optional: columns that hold one in some rows.
        prompts: whether prompts are read by themselves too, for a prompt head.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        columns: Sequence[str] = (),
        optional: Sequence[str] = (),
        prompts: bool = False,
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.columns, self.optional, self.prompts = tuple(columns), tuple(optional), prompts

    @property
    def declared(self) -> tuple[str, ...]:
        """Columns that a row is read for beside its responses."""
        return (*self.columns, *self.optional)

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide what a record is encoded as."""
        plain = super().fingerprint
        more = [*([self.optional] if self.optional else []), *(["prompts"] if self.prompts else [])]
        return settings_hash(plain, self.columns, *more) if self.declared or more else plain

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode both rows of a pair; None when either is skipped, or when they are identical after truncation.

        Each row is truncated on its own, as at inference: a scalar reward reads one response only.

        Raises:
            RowError: for a row without a declared column, or without any of the optional ones.
        """
        numbers = read_numbers(record, self.columns) | read_optional(record, self.optional)
        chosen, rejected = self._encode_sides(record)
        if chosen is None or rejected is None:
            return None
        if chosen["ids"] == rejected["ids"]:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        return {
            "chosen": chosen["ids"],
            "rejected": rejected["ids"],
            **({"alone": self.encode_alone(record.prompt)} if self.prompts else {}),
            **numbers,
            **pair_facts(record),
            "length": max(len(chosen["ids"]), len(rejected["ids"])),
        }

    def _encode_sides(self, record: PreferencePair) -> list[dict[str, Any] | None]:
        """Encode chosen and rejected."""
        return [self.encode_response(record.prompt, text) for text in (record.chosen, record.rejected)]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate right-padded [2N, S], N chosen rows, then N rejected ones; with `pair_tensors` and numbers.

        With `prompts` it is [3N, S], the N prompts last.
        """
        kinds = ("chosen", "rejected", "alone")[: 2 + self.prompts]
        ids, mask = right_pad([row[kind] for kind in kinds for row in rows], int(self.tokenizer.pad_token_id))
        columns = number_tensors(rows, self.declared)
        return {"input_ids": ids, "attention_mask": mask, **columns, **pair_tensors(rows)}


class ReadsColumns(Protocol):
    """What reads further columns of prompts."""

    columns: tuple[str, ...]
    """Their names; one that checks none has none."""

    def check_row(self, row: dict[str, Any]) -> None:
        """Refuse a row by its further columns. Raises RowError."""


class PromptEncoder(_Encoder):
    """Prompts for sampling, left padded.

    Args:
        tokenizer: the policy's tokenizer.
        max_length: longest prompt in tokens.
        on_too_long: error, truncate (see `fit_prompt`; counted) or skip (counted).
        needs_anchors: whether a prompt without an anchor is of no use.
        readers: what reads further columns of the rows, and checks them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        needs_anchors: bool = True,
        readers: Sequence[ReadsColumns] = (),
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.needs_anchors, self.readers = needs_anchors, [each for each in readers if each.columns]

    @property
    def declared(self) -> list[str]:
        """Further columns that are read, so that a data source may map them."""
        return [name for reader in self.readers for name in reader.columns]

    @property
    def fingerprint(self) -> str:
        """Hash all settings, `needs_anchors` included: a run that needs anchors cannot use rows without."""
        checked = [(type(each).__name__, each.columns) for each in self.readers]
        return settings_hash(super().fingerprint, self.needs_anchors, *([checked] if checked else []))

    def encode(self, record: AnchoredPrompt) -> dict[str, Any] | None:
        """Encode one prompt with its anchors; None when it is skipped.

        Raises:
            RowError: for further columns that a reader refuses.
            TooLongError: when it does not fit and `on_too_long` is error.
        """
        for reader in self.readers:
            reader.check_row(record.extra)
        ids, truncation = self._encode_prompt(record.prompt), Truncation(0)
        if len(ids) > self.max_length and self.on_too_long == "error":
            raise TooLongError(
                f"a prompt takes {len(ids)} tokens, max_prompt_length is {self.max_length} (it starts "
                f"{record.prompt[0]['content'][:60]!r}); raise max_prompt_length or set on_too_long"
            )
        if len(ids) > self.max_length and self.on_too_long == "skip":
            self.counts.add(Truncation.TOO_LONG)
            return None
        if len(ids) > self.max_length:
            ids, truncation = fit_prompt(record.prompt, ids, self._encode_prompt, self.tokenizer, room=self.max_length)
        self.counts.add(truncation)
        # As text: an extra column may hold anything, and rows on disk have one type per column.
        about = json.dumps([record.prompt, record.anchors, record.extra], default=str)
        return {"ids": ids, "about": about, "length": len(ids)}

    def collate(self, rows: list[dict[str, Any]]) -> PromptBatch:
        """Collate left-padded prompts with their messages, anchors and extra columns."""
        ids, mask = left_pad([row["ids"] for row in rows], int(self.tokenizer.pad_token_id))
        prompts, anchors, extras = zip(*(json.loads(row["about"]) for row in rows), strict=True)
        return PromptBatch(ids, mask, list(prompts), [tuple(some) for some in anchors], list(extras))
