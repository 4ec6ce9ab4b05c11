"""Preference pairs for a policy: the prompt once, and each response that an objective reads behind it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.encoding import TurnEncoder
from prl.data.rows.records import PreferencePair
from prl.data.rows.row_errors import RowError, shown
from prl.data.tokens import OnTooLong, Truncation, pair_tensors, right_pad, settings_hash

COLUMN = "column."
"""How the key of a number of a row begins, so that no column has the name of something else."""


class PreferenceEncoder(TurnEncoder):
    """Each response of a pair in a row of its own, with the ids that `DemonstrationEncoder` gives it.

    All responses of a pair follow the same prompt: where one is so long that the prompt is cut, it is cut for all.

    Args:
        tokenizer: the policy's tokenizer.
        max_length: longest prompt and response in tokens.
        on_too_long: error, truncate (counted) or skip (counted), as `ConversationEncoder` has it.
        views: responses that are read: chosen, rejected, and text columns of the rows.
        columns: columns of the rows that hold a number.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        on_too_long: OnTooLong = "error",
        views: Sequence[str] = ("chosen", "rejected"),
        columns: Sequence[str] = (),
    ) -> None:
        super().__init__(tokenizer, max_length, on_too_long)
        self.views, self.columns = tuple(views), tuple(columns)

    @property
    def fingerprint(self) -> str:
        """Hash all settings that decide what a record is encoded as."""
        return settings_hash(super().fingerprint, self.views, self.columns)

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Name the columns that are read beside those of every pair; a data source may map them."""
        return (*self.views[2:], *self.columns)

    def encode(self, record: PreferencePair) -> dict[str, Any] | None:
        """Encode one pair; None where a response is skipped, or chosen and rejected are the same after the cut.

        Raises:
            RowError: for a row without a declared view or column.
            TooLongError: when a response does not fit and `on_too_long` is error.
        """
        texts = {name: self._text(record, name) for name in self.views}
        numbers = {COLUMN + name: _number(record, name) for name in self.columns}
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
        columns = {COLUMN + name: torch.tensor([row[COLUMN + name] for row in rows]) for name in self.columns}
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "loss_mask": mask & (torch.arange(ids.shape[1]) >= starts[:, None]),
            **columns,
            **pair_tensors(rows),
        }

    def _text(self, record: PreferencePair, name: str) -> str:
        if name in ("chosen", "rejected"):
            return str(getattr(record, name))
        value = record.extra.get(name)
        text = value.strip() if isinstance(value, str) else ""
        if not text:
            raise _missing(record, name, "non-empty text in every row")
        return text


_READ = ", which the objective reads"


def _number(record: PreferencePair, name: str) -> float:
    value = record.extra.get(name)
    expected = "a finite number in every row"
    if value is None:
        raise _missing(record, name, expected)
    try:  # cells of .csv files hold text alone
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError("no number", name, shown(value), expected=expected + _READ, fix="Correct it or remove the row.")
    return number


def _missing(record: PreferencePair, name: str, expected: str) -> RowError:
    found = shown(record.extra[name]) if name in record.extra else _columns(record)
    fix = f"Add the column {name!r} to the data, or choose an objective that does not read it."
    return RowError("missing column", name, found, expected=expected + _READ, fix=fix)


def _columns(record: PreferencePair) -> str:
    return "further columns " + (", ".join(map(repr, record.extra)) or "none")
