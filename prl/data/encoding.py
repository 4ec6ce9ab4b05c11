"""Conversations as token ids for the policy, its supervised stage and the scalar baseline."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.records import AnchoredPrompt, Conversation, Demonstration, PreferencePair
from prl.data.tokens import (
    EncodingCounts,
    OnTooLong,
    TooLongError,
    encode_content,
    left_pad,
    pair_facts,
    pair_tensors,
    right_pad,
)
from prl.types import PromptBatch


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> list[int]:
    """A conversation up to where the response begins, through the model's own chat template where it has one.

    Raises:
        ValueError: when the result starts with two beginning-of-sequence tokens.
    """
    if tokenizer.chat_template:
        rendered: Any = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = list(rendered["input_ids"])
    else:
        text = "\n\n".join(message["content"] for message in messages)
        ids = list(tokenizer(text)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()  # some tokenizers close every text
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise ValueError("the chat template and the tokenizer both add a beginning-of-sequence token; fix one of them")
    return ids


class ConversationEncoder:
    """Prompt and response in one row, the response closed by the end-of-sequence token.

    Args:
        tokenizer: the model's tokenizer.
        max_length: longest row in tokens.
        on_too_long: error, truncate (the beginning of the prompt goes first; counted) or skip (counted).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
    ) -> None:
        self.tokenizer, self.max_length, self.on_too_long = tokenizer, max_length, on_too_long
        self.counts = EncodingCounts()

    def encode_response(self, prompt: Conversation, response: str) -> dict[str, Any] | None:
        """Ids of prompt and response, and how many belong to the response; None when skipped for its length."""
        prompt_ids = encode_prompt(self.tokenizer, prompt)
        response_ids = [*encode_content(self.tokenizer, response), int(self.tokenizer.eos_token_id)]
        self.counts.seen += 1
        excess = len(prompt_ids) + len(response_ids) - self.max_length
        if excess > 0:
            if self.on_too_long == "error":
                raise TooLongError(
                    f"prompt and response take {len(prompt_ids) + len(response_ids)} tokens, max_length is "
                    f"{self.max_length}; raise max_length or set on_too_long"
                )
            if self.on_too_long == "skip":
                return None
            self.counts.cut += 1
            keep = max(self.max_length // 4, len(prompt_ids) - excess)
            prompt_ids = prompt_ids[-keep:]
            response_ids = response_ids[: self.max_length - len(prompt_ids)]
        return {"ids": prompt_ids + response_ids, "num_response": len(response_ids)}


class DemonstrationEncoder(ConversationEncoder):
    """Demonstrations for the supervised stage: the loss is on the completion only."""

    def encode(self, record: Demonstration) -> dict[str, Any] | None:
        """One row; None when it is skipped."""
        row = self.encode_response(record.prompt, record.completion)
        return row and {**row, "length": len(row["ids"])}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Right-padded input_ids and attention_mask [B, S]; loss_mask [B, S] is True on completion tokens."""
        ids, mask = right_pad([row["ids"] for row in rows], int(self.tokenizer.pad_token_id))
        prompt_lengths = torch.tensor([len(row["ids"]) - row["num_response"] for row in rows])
        after_prompt = torch.arange(ids.shape[1]) >= prompt_lengths[:, None]
        return {"input_ids": ids, "attention_mask": mask, "loss_mask": mask & after_prompt}


class ScalarPairEncoder(ConversationEncoder):
    """Preference pairs for a scalar reward model: each response in a row of its own."""

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Both rows of a pair; None when either is skipped."""
        chosen = self.encode_response(record.prompt, record.chosen)
        rejected = self.encode_response(record.prompt, record.rejected)
        if chosen is None or rejected is None:
            return None
        return {
            "chosen": chosen["ids"],
            "rejected": rejected["ids"],
            **pair_facts(record),
            "length": max(len(chosen["ids"]), len(rejected["ids"])),
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Right-padded [2N, S]: the N chosen rows, then the N rejected ones; and `pair_tensors`."""
        ids, mask = right_pad(
            [row["chosen"] for row in rows] + [row["rejected"] for row in rows], int(self.tokenizer.pad_token_id)
        )
        return {"input_ids": ids, "attention_mask": mask, **pair_tensors(rows)}


class PromptEncoder:
    """Prompts for sampling, left padded.

    Args:
        tokenizer: the policy's tokenizer.
        max_length: longest prompt in tokens.
        on_too_long: error, truncate (drops the beginning; counted) or skip (counted).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
    ) -> None:
        self.tokenizer, self.max_length, self.on_too_long = tokenizer, max_length, on_too_long
        self.counts = EncodingCounts()

    def encode(self, record: AnchoredPrompt) -> dict[str, Any] | None:
        """One prompt with its anchors; None when it is skipped.

        Raises:
            TooLongError: when it does not fit and `on_too_long` is error.
        """
        self.counts.seen += 1
        ids = encode_prompt(self.tokenizer, record.prompt)
        if len(ids) > self.max_length:
            if self.on_too_long == "error":
                raise TooLongError(
                    f"a prompt takes {len(ids)} tokens, max_prompt_length is {self.max_length} (it starts "
                    f"{record.prompt[0]['content'][:60]!r}); raise max_prompt_length or set on_too_long"
                )
            if self.on_too_long == "skip":
                return None
            self.counts.cut += 1
            ids = ids[-self.max_length :]
        return {"ids": ids, "prompt": record.prompt, "anchors": record.anchors, "length": len(ids)}

    def collate(self, rows: list[dict[str, Any]]) -> PromptBatch:
        """Left-padded prompts with their messages and anchors."""
        ids, mask = left_pad([row["ids"] for row in rows], int(self.tokenizer.pad_token_id))
        return PromptBatch(ids, mask, [row["prompt"] for row in rows], [row["anchors"] for row in rows])
