"""Preference pairs for a policy: the prompt once, and each response that an objective reads behind it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.columns import missing_column, number_tensors, read_numbers
from prl.data.encoding import TurnEncoder
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong, Truncation, pair_tensors, right_pad, settings_hash


class PreferenceEncoder(TurnEncoder):
    """Each response of a pair in a row of its own, with the ids of `DemonstrationEncoder`.

    All responses of a pair follow one prompt: where one is so long that the prompt is truncated, it is for all.

    Args:
        tokenizer: the policy's tokenizer.
        max_length: longest prompt and response in tokens.
        on_too_long: error, truncate (counted) or skip (counted), as `ConversationEncoder` has it.
        views: responses that are read: chosen, rejected, and text columns of the rows.
        columns: columns of the rows that hold a number.
        probabilities: those of the columns that hold one from 0 to 1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        views: Sequence[str] = ("chosen", "rejected"),
        columns: Sequence[str] = (),
        probabilities: Sequence[str] = (),
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.views, self.columns, self.probabilities = tuple(views), tuple(columns), tuple(probabilities)

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        settings = [self.views, self.columns, *([self.probabilities] if self.probabilities else [])]
        return settings_hash(super().fingerprint, *settings)

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode one pair; None where a response is skipped, or chosen and rejected are equal after truncation.

        Raises:
            RowError: for a row without a declared view or column, or with a number that is none.
            TooLongError: when a response does not fit and `on_too_long` is error.
        """
        texts = {name: self._text(record, name) for name in self.views}
        numbers = read_numbers(record, self.columns, self.probabilities)
        rows = {name: self.encode_response(record.prompt, text) for name, text in texts.items()}
        prompts, responses = [], {}
        for name, row in rows.items():
            if row is None:
                return None
            start = len(row["ids"]) - row["num_response"]
            prompts.append(row["ids"][:start])
            responses[name] = row["ids"][start:]
        if responses["chosen"] == responses["rejected"]:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        prompt = min(prompts, key=len)
        length = len(prompt) + max(map(len, responses.values()))
        return {
            "prompt": prompt,
            **responses,
            **numbers,
            "target": record.preference,
            "weight": record.weight,
            "length": length,
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad rows on the right to [V * B, S], the B rows of one of V views after those of another.

        input_ids, attention_mask and loss_mask (True on responses), with targets, weights and columns of [B].
        """
        each = [(row["prompt"], row[view]) for view in self.views for row in rows]
        ids, mask = right_pad([[*prompt, *response] for prompt, response in each], int(self.tokenizer.pad_token_id))
        starts = torch.tensor([len(prompt) for prompt, _ in each])
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "loss_mask": mask & (torch.arange(ids.shape[1]) >= starts[:, None]),
            **number_tensors(rows, self.columns),
            **pair_tensors(rows),
        }

    def _text(self, record: PreferencePair, name: str) -> str:
        if name in ("chosen", "rejected"):
            return str(getattr(record, name))
        value = record.extra.get(name)
        text = value.strip() if isinstance(value, str) else ""
        if not text:
            raise missing_column(record, name, "non-empty text in every row")
        return text
