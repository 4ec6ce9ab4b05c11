"""A compact record of a set of prompts, from which the share of other prompts in it is known."""

import base64
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

KEPT = 1 << 16
"""Most hashes of a record: half a MiB."""


@dataclass(frozen=True)
class PromptSketch:
    """The smallest 64-bit hashes of a set of prompts, all of them where there are few.

    Hashes up to the largest that is kept are a random sample of the prompts, and of those of any other set. The share
    of the other set's sample that is kept estimates the share of its prompts in this set (bottom-k sketch). The share
    is exact where all hashes are kept.
    """

    num: int
    """Different prompts of the set."""
    hashes: np.ndarray
    """[K] uint64 in ascending order, K at most `KEPT`."""

    @classmethod
    def of(cls, keys: np.ndarray) -> Self:
        """Make the record of prompts by their SHA-256: [N] S32, repeated ones count once."""
        hashes = _hashes(keys)
        return cls(len(hashes), hashes[:KEPT])

    def share_of(self, keys: np.ndarray) -> float | None:
        """Compute the share of the different prompts of another set, [N] S32, that are in this one.

        None where that set is empty, or so small that none of it lies in the sample's range.
        """
        hashes = _hashes(keys)
        if len(self.hashes) < self.num:
            hashes = hashes[hashes <= self.hashes[-1]]
        return float(np.isin(hashes, self.hashes).mean()) if len(hashes) else None

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"num": self.num, "hashes": base64.b64encode(self.hashes.astype("<u8").tobytes()).decode()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """Read what `as_json` gave.

        Raises:
            ValueError: when the hashes are no ascending numbers, or not as many as there are prompts.
        """
        hashes = np.frombuffer(base64.b64decode(found["hashes"], validate=True), "<u8").astype(np.uint64)
        if len(hashes) != min(found["num"], KEPT) or (hashes[1:] <= hashes[:-1]).any():
            raise ValueError(f"prompts.hashes holds {len(hashes)} hashes; expected ascending ones of {found['num']}")
        return cls(found["num"], hashes)


def _hashes(keys: np.ndarray) -> np.ndarray:
    """Take the first 8 bytes of each key, different ones in ascending order: [N] S32 -> [U] uint64."""
    first = np.frombuffer(np.ascontiguousarray(keys, "S32").tobytes(), ">u8")[::4]
    return np.unique(first.astype(np.uint64))
