"""Repeated and contradictory pairs, and prompts on both sides of a split. Finds and counts; changes nothing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prl.data.rows.records import PreferencePair, prompt_key


@dataclass(frozen=True)
class PairAudit:
    """Repetitions among pairs. Two pairs compare equal if prompt and responses are equal, in either order."""

    duplicates: np.ndarray
    """Indices of pairs that repeat an earlier comparison with its winner (or tie)."""
    num_contradictions: int
    """Comparisons in which two pairs prefer different responses."""


def comparison_key(pair: PreferencePair) -> tuple[bytes, int]:
    """Return a key of the compared texts, 16 bytes, and the winner: 0 or 1, in alphabetical order, or 2 for a tie."""
    ordered = sorted((pair.chosen, pair.rejected))
    text = json.dumps([prompt_key(pair.prompt), *ordered])
    winner = 2 if pair.preference == 0.5 else int((pair.preference > 0.5) == (pair.chosen == ordered[1]))
    return hashlib.sha256(text.encode()).digest()[:16], winner


def find_repeats(comparisons: np.ndarray, winners: np.ndarray) -> PairAudit:
    """Find exact duplicates and contradictions.

    Args:
        comparisons: key of each pair, [N] S16.
        winners: winner of each pair, as `comparison_key` gives it, [N].
    """
    comparison_of = np.unique(comparisons, return_inverse=True)[1]
    verdicts, first = np.unique(3 * comparison_of + winners, return_index=True)
    decided = verdicts[verdicts % 3 != 2] // 3
    return PairAudit(np.setdiff1d(np.arange(len(comparisons)), first), int((np.bincount(decided) == 2).sum()))


def audit_pairs(pairs: Sequence[PreferencePair]) -> PairAudit:
    """Find duplicates and contradictions among pairs in memory."""
    keys = [comparison_key(pair) for pair in pairs]
    return find_repeats(np.array([key for key, _ in keys], "S16"), np.array([winner for _, winner in keys], np.int64))


def shared_prompts(one: np.ndarray, other: np.ndarray) -> int:
    """Count the prompts that occur in both arrays of prompt keys."""
    return len(np.intersect1d(one, other))
