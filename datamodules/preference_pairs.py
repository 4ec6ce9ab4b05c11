"""Preference pairs for the generative judge, the Bradley-Terry baseline and policies that learn from pairs."""

import logging
from typing import Any, Literal

import numpy as np

from datamodules.base import RecordDataModule
from prl.data import DataSource, PreferencePair
from prl.data.audit import find_repeats
from prl.data.store import EncodedRecords

log = logging.getLogger(__name__)


class PreferencePairDataModule(RecordDataModule):
    """Pairs of responses in any shape of docs/data.md.

    Args:
        train: source of training rows.
        on_duplicate: keep or drop pairs that repeat an earlier one of their source.
            Contradictions are never dropped. Both are counted in the data report.
        settings: the other arguments of `RecordDataModule`.

    Raises:
        DataError: for bad rows, or a data set without rows to train on.
    """

    record_type = PreferencePair

    def __init__(self, train: DataSource, on_duplicate: Literal["keep", "drop"] = "keep", **settings: Any) -> None:
        super().__init__(train, **settings)
        if on_duplicate not in ("keep", "drop"):
            raise ValueError(f"data.on_duplicate is {on_duplicate!r}; expected 'keep' or 'drop'")
        self.on_duplicate = on_duplicate

    def _encode(self, name: str, source: DataSource, reports: dict[str, Any]) -> tuple[EncodedRecords, np.ndarray]:
        records, kept = super()._encode(name, source, reports)
        audit = find_repeats(records.comparisons, records.winners)
        repeated, dropped = len(audit.duplicates), self.on_duplicate == "drop"
        reports[name] |= {
            "num_duplicates": repeated,
            "num_dropped": repeated if dropped else 0,
            "num_contradictions": audit.num_contradictions,
        }
        if repeated or audit.num_contradictions:
            log.warning(
                "%s: %d pairs repeat an earlier one (%s), %d comparisons are won by both responses (kept)",
                source.path,
                repeated,
                "dropped" if dropped else "kept; on_duplicate: drop leaves them out",
                audit.num_contradictions,
            )
        return records, np.setdiff1d(kept, audit.duplicates) if dropped else kept
