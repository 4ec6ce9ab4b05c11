"""Preference pairs for a policy: the prompt once, and each response that an objective reads behind it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.columns import missing_column, number_tensors, read_number_lists, read_numbers, read_texts
from prl.data.encoding import TurnEncoder
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong, Truncation, pair_tensors, right_pad, settings_hash
from prl.types import Conversation

COUNT = "count."
"""How the key of the lengths of a list begins in a batch."""


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
        lists: columns that hold a list of texts, each a further response; by name, the columns with a number for each.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        views: Sequence[str] = ("chosen", "rejected"),
        columns: Sequence[str] = (),
        probabilities: Sequence[str] = (),
        lists: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.views, self.columns, self.probabilities = tuple(views), tuple(columns), tuple(probabilities)
        self.lists = {name: tuple(numbers) for name, numbers in lists.items()}

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide the encoding of a record."""
        further = [each for each in (self.probabilities, self.lists) if each]
        return settings_hash(super().fingerprint, self.views, self.columns, *further)

    @property
    def declared(self) -> list[str]:
        """Columns of the data that are read beside those of every pair."""
        of_lists = [each for name, numbers in self.lists.items() for each in (name, *numbers)]
        return [*self.views[2:], *self.columns, *of_lists]

    @property
    def id_columns(self) -> list[str]:
        """Keys of an encoded row that hold token ids; those of lists hold a list of ids for each response."""
        return ["prompt", *self.views, *self.lists]

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode one pair; None where a response is skipped, or chosen and rejected are equal after truncation.

        Raises:
            RowError: for a row without a declared view or column, or with a number that is none.
            TooLongError: when a response does not fit and `on_too_long` is error.
        """
        texts = {name: [self._text(record, name)] for name in self.views}
        texts |= {name: read_texts(record, name) for name in self.lists}
        numbers: dict[str, Any] = dict(read_numbers(record, self.columns, self.probabilities))
        for name, columns in self.lists.items():
            numbers |= read_number_lists(record, columns, name, len(texts[name]))
        if (found := self._behind(record.prompt, texts)) is None:
            return None
        prompt, responses = found
        if responses["chosen"] == responses["rejected"]:
            self.counts.by_truncation[Truncation.IDENTICAL] += 1
            return None
        return {
            "prompt": prompt,
            **{name: ids if name in self.lists else ids[0] for name, ids in responses.items()},
            **numbers,
            "target": record.preference,
            "weight": record.weight,
            "length": len(prompt) + max(len(ids) for some in responses.values() for ids in some),
        }

    def _behind(
        self, prompt: Conversation, texts: Mapping[str, Sequence[str]]
    ) -> tuple[list[int], dict[str, list[list[int]]]] | None:
        """Encode responses behind one prompt, which is cut as for the longest of them; None where one is skipped."""
        prompts, responses = [], {}
        for name, some in texts.items():
            rows = [self.encode_response(prompt, text) for text in some]
            kept = [(row["ids"], len(row["ids"]) - row["num_response"]) for row in rows if row is not None]
            if len(kept) < len(rows):
                return None
            prompts += [ids[:start] for ids, start in kept]
            responses[name] = [ids[start:] for ids, start in kept]
        return min(prompts, key=len), responses

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad responses on the right: [N, S], the B responses of one view after those of another, then lists.

        The responses of a list stand one after the other, pair by pair, as many as each has: `count.NAME` of [B] says
        how many, and `pairs` of [N] whose response each is. Beside input_ids, attention_mask and loss_mask (True on
        responses) there are targets, weights and columns of [B], numbers of lists [B, K].
        """
        each = [(number, row[view]) for view in self.views for number, row in enumerate(rows)]
        each += [(number, ids) for name in self.lists for number, row in enumerate(rows) for ids in row[name]]
        prompts = [rows[number]["prompt"] for number, _ in each]
        together = [[*prompt, *response] for prompt, (_, response) in zip(prompts, each, strict=True)]
        ids, mask = right_pad(together, int(self.tokenizer.pad_token_id))
        starts = torch.tensor([len(prompt) for prompt in prompts])
        numbers = [*self.columns, *(name for some in self.lists.values() for name in some)]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "loss_mask": mask & (torch.arange(ids.shape[1]) >= starts[:, None]),
            "pairs": torch.tensor([number for number, _ in each]),
            **{COUNT + name: torch.tensor([len(row[name]) for row in rows]) for name in self.lists},
            **number_tensors(rows, numbers),
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
