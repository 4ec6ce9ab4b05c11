"""Token ids and padded batches: parts that all encoders share."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.chat import ChatSettings, chat_settings
from prl.data.rows.records import PreferencePair

OnTooLong = Literal["error", "truncate", "skip"]


class TooLongError(ValueError):
    """Raised for texts that do not fit; names the numbers and the settings to change."""


class Truncation(IntFlag):
    """Texts cut to make them fit, and records left out."""

    TURNS = 1
    """Whole turns: the oldest ones, or the system message."""
    RESPONSES = 2
    """Ends of responses."""
    PROMPT = 4
    """The beginning of the prompt's last turn: only here does a prompt start within a turn."""
    TOO_LONG = 8
    """The record, because it does not fit and `on_too_long` is skip."""
    IDENTICAL = 16
    """The record, because its two responses are equal after truncation."""

    CUT = TURNS | RESPONSES | PROMPT
    LEFT_OUT = TOO_LONG | IDENTICAL


@dataclass
class EncodingCounts:
    """Counts of the texts that an encoder has seen and truncated."""

    seen: int = 0
    cut: int = 0
    by_truncation: Counter[Truncation] = field(default_factory=Counter)
    """Texts by each single truncation."""

    def add(self, truncation: Truncation) -> None:
        """Count one more text."""
        self.seen += 1
        self.cut += bool(truncation & Truncation.CUT)
        self.by_truncation.update(truncation)

    @property
    def truncated_fraction(self) -> float:
        """Share of the texts that were truncated."""
        return self.cut / max(self.seen, 1)


def left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the left: ids and bool mask, both [N, S]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width).expand(len(rows), -1) >= (width - lengths)[:, None]


def right_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the right: ids and bool mask, both [N, S]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width).expand(len(rows), -1) < lengths[:, None]


def check_one_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], written_by: str) -> None:
    """Refuse a row that begins with two beginning-of-sequence tokens: no model has seen such a text.

    Args:
        tokenizer: tokenizer of the row.
        ids: the row, or its beginning.
        written_by: the setting that decides the text of the row, for the error.

    Raises:
        ValueError: names the tokenizer, the template, and the fix.
    """
    bos = tokenizer.bos_token_id
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise ValueError(
            f"{written_by} and tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} together begin a text "
            f"with two beginning-of-sequence tokens {tokenizer.bos_token!r}; take it out of the template, or set "
            "add_bos_token to false in tokenizer_config.json"
        )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash how a tokenizer writes text: vocabulary, merges, rules, special tokens, chat template and its settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    if backend is not None:
        for setting in ("padding", "truncation"):  # changed by mere use; no part of the encoding
            rules.pop(setting, None)
    told = chat_settings(tokenizer)
    more = [] if told == ChatSettings() else [told.kwargs, told.date]
    return settings_hash(rules, tokenizer.chat_template, tokenizer.bos_token_id, tokenizer.eos_token_id, *more)


def settings_hash(*settings: Any) -> str:
    """Hash JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def pair_facts(pair: PreferencePair) -> dict[str, Any]:
    """Return the fields of a pair that its row keeps besides the ids, for the loss and for reports."""
    source = pair.extra.get("source")
    return {
        "target": pair.preference,
        "weight": pair.weight,
        "prompt": list(pair.prompt),
        "texts": [pair.chosen, pair.rejected],
        "attack": pair.attack,
        # A column of a file has one type, and its texts are UTF-8.
        "source": "" if source is None else str(source).encode(errors="replace").decode(),
    }


def pair_tensors(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate targets and weights [N] of rows of pairs, and row numbers `index` [N] where a data module gave them."""
    columns = {
        "targets": torch.tensor([row["target"] for row in rows], dtype=torch.float32),
        "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
    }
    return columns | ({"index": torch.tensor([row["index"] for row in rows])} if "index" in rows[0] else {})
