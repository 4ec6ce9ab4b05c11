"""Critiques of the data: what a judge that reasons is to think of a pair."""

from typing import Any

from torch import Tensor

from prl.data.marks import encode_contents
from prl.data.rows.records import PreferencePair
from prl.data.rows.row_errors import RowError, shown
from prl.data.tokens import right_pad
from prl.data.turns import end_of_turn
from prl.judge.encoding import ComparisonEncoder

COLUMN = "critique"
"""Column of the critiques: a text that holds in either order, a list of two texts, or nothing."""
_NONE = -1
"""In an encoded row without a critique: a list without numbers has no type in the store."""
_EXPECTED = "a text that holds in either order, or a list of two: one with chosen shown first, one with rejected"


class CritiqueEncoder(ComparisonEncoder):
    """Encodes pairs as a `ComparisonEncoder` does, and their critiques, where rows have any.

    Args:
        max_tokens: most tokens of a critique, its end included; a longer one is an error.
        more: arguments of `ComparisonEncoder`.
    """

    def __init__(self, *args: Any, max_tokens: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self.max_tokens = max_tokens

    @property
    def fingerprint(self) -> str:
        """Hash of all settings that decide what a pair is encoded as."""
        return f"{super().fingerprint}.{self.max_tokens}"

    def encode(self, pair: PreferencePair) -> dict[str, Any] | None:
        """Encode a pair with its critiques, the end of a turn behind each; without any they are marked so.

        Raises:
            RowError: for a critique that is no text, is empty, or longer than `max_tokens`.
        """
        row = super().encode(pair)
        if row is None:
            return None
        texts = _texts(pair.extra.get(COLUMN))
        end = end_of_turn(self.tokenizer)[-1]
        critiques = [[*ids, end] for ids in encode_contents(self.tokenizer, texts, self.template.text)] if texts else []
        for ids in critiques:
            if len(ids) > self.max_tokens:
                raise RowError(
                    "critique too long",
                    COLUMN,
                    f"{len(ids)} tokens with the end",
                    expected=f"at most reasoning.max_tokens, {self.max_tokens}",
                    fix="Raise that, shorten the critique, or leave it empty.",
                )
        first, second = critiques or ([_NONE], [_NONE])
        return {**row, "critique_chosen_first": first, "critique_rejected_first": second}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a batch as `ComparisonEncoder` does, with critique_ids and critique_mask [2N, L] where it has any."""
        batch = super().collate(rows)
        critiques = [row[f"critique_{order}_first"] for order in ("chosen", "rejected") for row in rows]
        critiques = [[] if each == [_NONE] else each for each in critiques]
        if any(critiques):
            ids, mask = right_pad(critiques, int(self.tokenizer.pad_token_id))
            batch |= {"critique_ids": ids, "critique_mask": mask}
        return batch


def critiques_of(batch: dict[str, Tensor], rows: Tensor) -> list[list[int]]:
    """List the critiques of some readings of a batch, empty ones where there are none."""
    if "critique_ids" not in batch:
        return [[] for _ in rows.tolist()]
    both = zip(batch["critique_ids"][rows], batch["critique_mask"][rows], strict=True)
    return [ids[mask].tolist() for ids, mask in both]


def _texts(given: Any) -> list[str]:
    """Read a critique as two texts; none where a row has no critique."""
    if given is None or given == "":
        return []
    texts = [given, given] if isinstance(given, str) else given
    if not isinstance(texts, list) or len(texts) != 2 or not all(isinstance(t, str) and t.strip() for t in texts):
        raise RowError("no critique", COLUMN, shown(given), expected=_EXPECTED, fix="Correct it or leave it empty.")
    return [text.strip() for text in texts]
