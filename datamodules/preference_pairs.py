"""Preference pairs for the generative judge, the Bradley-Terry baseline and policies that learn from pairs."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import count
from typing import Any, Literal

import numpy as np

from datamodules.base import RecordDataModule
from prl.data import DataSource, PreferencePair, Record, RecordStream
from prl.data.audit import find_repeats
from prl.data.store import Adds, EncodedRecords
from prl.judge.attacks import AttackRows
from prl.run_folder.inputs import Inputs

log = logging.getLogger(__name__)


class PreferencePairDataModule(RecordDataModule):
    """Pairs of responses in any shape of docs/data.md.

    Args:
        train: source of training rows.
        on_duplicate: keep or drop pairs that repeat an earlier one of their source.
            Contradictions are never dropped. Both are counted in the data report.
        attacks: pairs to add to the training rows in which a response without an answer loses; none when null.
        settings: the other arguments of `RecordDataModule`.

    Raises:
        DataError: for bad rows, or a data set without rows to train on.
        ValueError: for attacks beside pairs of pictures, or for an objective that reads numbers of the rows.
    """

    record_type = PreferencePair

    def __init__(
        self,
        train: DataSource,
        on_duplicate: Literal["keep", "drop"] = "keep",
        attacks: AttackRows | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(train, **settings)
        if on_duplicate not in ("keep", "drop"):
            raise ValueError(f"data.on_duplicate is {on_duplicate!r}; expected 'keep' or 'drop'")
        self.on_duplicate, self.attacks = on_duplicate, attacks
        if attacks is not None and self.record_type is not PreferencePair:
            raise ValueError(
                f"{type(self).__name__} has no texts that an attack could lose to; set data.attacks to null"
            )

    def inputs(self) -> Inputs:
        """Hash the data and list the settings that decide the rows."""
        if self.attacks is None:
            return super().inputs()
        return {**super().inputs(), "data.attacks": self.attacks.fingerprint[:32]}

    def _build_encoder(self) -> Any:
        encoder = super()._build_encoder()
        columns = getattr(encoder, "declared", getattr(encoder, "columns", ()))
        if self.attacks is not None and columns:
            raise ValueError(
                f"data.attacks adds rows that have no column {columns[0]!r}, which the objective reads; set attacks to "
                "null, or choose an objective without columns"
            )
        return encoder

    def _adds(self, name: str) -> Adds | None:
        return self.attacks if name == "train" else None

    def _usable(self, name: str, stream: RecordStream) -> Iterable[Record]:
        """Yield the pairs of a source; of training, each followed by the attack that is made for it, if any."""
        if name != "train" or self.attacks is None:
            yield from stream
            return
        template = getattr(self.encoder, "template", None)
        verdicts = ("A", "B") if template is None else template.verdicts
        row, numbers = 0, count()
        for pair in stream:
            if stream.row != row:
                row, numbers = stream.row, count()
            yield pair
            attack = self.attacks.made_for(pair, row, next(numbers), verdicts)
            if attack is not None:
                yield attack

    def _of_data(self, records: EncodedRecords, kept: np.ndarray) -> np.ndarray:
        return kept[~_attacked(records)[kept]]

    def _encode(self, name: str, source: DataSource, reports: dict[str, Any]) -> tuple[EncodedRecords, np.ndarray]:
        records, kept = super()._encode(name, source, reports)
        of_data = self._of_data(records, kept)
        audit = find_repeats(records.comparisons[of_data], records.winners[of_data])
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
        return records, np.setdiff1d(kept, of_data[audit.duplicates]) if dropped else kept

    def _select(self, name: str, records: EncodedRecords, kept: np.ndarray, reports: dict[str, Any]) -> Any:
        rows = super()._select(name, records, kept, reports)
        if name == "train" and self.attacks is not None:
            found = Counter(each for each in rows["attack"] if each)
            by_family = {family: found[family] for family in self.attacks.families}
            reports["attacks"] = {**asdict(self.attacks), "rows": by_family}
            told = ", ".join(f"{number} {family}" for family, number in by_family.items())
            log.info("%d of %d training rows are attacks that lose: %s", sum(by_family.values()), len(rows), told)
            if not found:
                log.warning("data.attacks adds no row to %d pairs; raise its share (%s)", len(rows), self.attacks.share)
        return rows


def _attacked(records: EncodedRecords) -> np.ndarray:
    """Find the encoded records that are attacks: [N] bool over all records."""
    found = np.zeros(len(records.truncations), bool)
    if "attack" in records.rows.column_names:  # rows of pictures have none
        found[records.encoded] = np.array(records.rows["attack"]) != ""
    return found
