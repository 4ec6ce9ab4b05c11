"""Text as token ids and rows of ids as batches: what every encoder shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.records import PreferencePair

OnTooLong = Literal["error", "truncate", "skip"]


class TooLongError(ValueError):
    """A comparison that does not fit, with the numbers and the settings that change it."""


@dataclass
class EncodingCounts:
    """What an encoder did to the texts it has seen."""

    seen: int = 0
    cut: int = 0

    @property
    def cut_share(self) -> float:
        """Share of the texts that lost something."""
        return self.cut / max(self.seen, 1)


def left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as one left-padded batch: ids and bool mask, both [N, S]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width).expand(len(rows), -1) >= (width - lengths)[:, None]


def right_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as one right-padded batch: ids and bool mask, both [N, S]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width).expand(len(rows), -1) < lengths[:, None]


def encode_content(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of user text; a special token written in it is read as plain characters."""
    ids: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids)


def pair_facts(pair: PreferencePair) -> dict[str, Any]:
    """What a row keeps of its pair beside the ids: for the loss, and for the reports on validation pairs."""
    source = pair.extra.get("source")
    return {
        "target": pair.preference,
        "weight": pair.weight,
        "prompt": pair.prompt,
        "texts": [pair.chosen, pair.rejected],
        "source": None if source is None else str(source),
    }


def pair_tensors(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Targets and weights [N] of rows of pairs, and the rows' numbers `index` [N] where a data module gave them."""
    columns = {
        "targets": torch.tensor([row["target"] for row in rows], dtype=torch.float32),
        "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
    }
    return columns | ({"index": torch.tensor([row["index"] for row in rows])} if "index" in rows[0] else {})
