"""What every data module does: read, check, encode once, and hand out batches in an order that a resume continues."""

import json
import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from prl.data import DataError, DataSource, LengthGroupedBatchSampler, Record, load_records, split_by_prompt
from prl.data.audit import shared_prompts
from prl.data.tokens import EncodingCounts, TooLongError
from prl.run_position import batches_done, is_dry_run

log = logging.getLogger(__name__)


class _Numbered(Dataset):
    """Rows that know their number, by which a validation finds their texts again whichever rank read them."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "index": index}

    def __len__(self) -> int:
        return len(self.rows)


class RecordDataModule(LightningDataModule):
    """Rows of one kind, for one stage. The stage says how a row becomes ids; this class never touches a model.

    Args:
        train: where training rows come from.
        validation: where validation rows come from; null takes `validation_share` of the training prompts.
        batch_size: rows per step over all processes together.
        validation_batch_size: the same for validation; `batch_size` when null.
        validation_share: share of the training prompts held out when `validation` is null; all rows of a prompt stay
            on one side.
        on_invalid: error names every bad row before any compute is spent; skip leaves them out and reports them.
        group_by_length: batches of like lengths, which wastes little padding.
        seed: of the order and the split.
        num_workers: processes that collate.

    Raises:
        DataError: for bad rows, or a set that leaves nothing to train on.
    """

    record_type: ClassVar[type[Record]]

    def __init__(
        self,
        train: DataSource,
        validation: DataSource | None = None,
        batch_size: int = 32,
        validation_batch_size: int | None = None,
        validation_share: float = 0.05,
        on_invalid: Literal["error", "skip"] = "error",
        group_by_length: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if validation is None and not 0 < validation_share < 1:
            raise ValueError(
                f"data.validation_share is {validation_share}; without data.validation it must lie between 0 and 1"
            )
        self.train_source, self.validation_source = train, validation
        self.batch_size, self.validation_batch_size = batch_size, validation_batch_size or batch_size
        self.validation_share, self.on_invalid = validation_share, on_invalid
        self.group_by_length, self.seed, self.num_workers = group_by_length, seed, num_workers
        self.encoder: Any = None
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def setup(self, stage: str) -> None:
        """Read, check and encode everything once; safe to call twice."""
        if self.rows:
            return
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if module.record_type is not self.record_type:
            raise ValueError(
                f"{type(module).__name__} learns from {module.record_type.__name__} rows, but {type(self).__name__} "
                f"gives {self.record_type.__name__} rows; choose the other data module in the config"
            )
        self.encoder = module.build_encoder()
        reports: dict[str, Any] = {}
        records = self._read("train", self.train_source, reports)
        if self.validation_source is not None:
            held_out = self._read("validation", self.validation_source, reports)
            reports["num_shared_prompts"] = shared_prompts(records, held_out)
            if reports["num_shared_prompts"]:
                log.warning(
                    "%d prompts of %s are in the training data too, so validation flatters the model; leave validation "
                    "out to hold out whole prompts",
                    reports["num_shared_prompts"],
                    self.validation_source.path,
                )
        else:
            records, held_out = split_by_prompt(records, self.validation_share, self.seed)
        self.rows = {
            "train": self._encode("train", self.train_source, records, reports),
            "validation": self._encode("validation", self.validation_source or self.train_source, held_out, reports),
        }
        self._write_report(reports)

    def _read(self, name: str, source: DataSource, reports: dict[str, Any]) -> list[Any]:
        loaded = load_records(source, self.record_type, self.on_invalid)
        reports[name] = loaded.report.as_dict()
        return loaded.records

    def _encode(
        self, name: str, source: DataSource, records: list[Any], reports: dict[str, Any]
    ) -> list[dict[str, Any]]:
        counts = self.encoder.counts = EncodingCounts()
        rows = []
        for number, record in enumerate(records, 1):
            try:
                row = self.encoder.encode(record)
            except TooLongError as error:
                raise TooLongError(f"{source.path}, valid row {number}: {error}") from None
            if row is not None:
                rows.append(row)
        if not rows:
            raise DataError(f"no {name} row is left of {len(records)}; see max_length and on_too_long, or the split")
        lengths = sorted(row["length"] for row in rows)
        reports[f"{name}_tokens"] = {
            "rows": len(rows),
            # Too long with on_too_long: skip, or the same text twice once both responses were cut.
            "left_out": len(records) - len(rows),
            "cut_share": counts.cut_share,
            "median_length": lengths[len(lengths) // 2],
            "max_length": lengths[-1],
        }
        if len(rows) < len(records):
            log.warning("%s: %d of %d rows left out for their length", name, len(records) - len(rows), len(records))
        return rows

    def _write_report(self, reports: dict[str, Any]) -> None:
        assert self.trainer is not None
        if self.trainer.is_global_zero and not is_dry_run(self.trainer):
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "data_report.json").write_text(json.dumps(reports, indent=2, default=str) + "\n")

    def _loader(self, rows: list[dict[str, Any]], batches: Sampler[list[int]]) -> DataLoader:
        # A generator of its own: a loader otherwise draws its seed from torch's global state, and a validation would
        # change the training that follows.
        return DataLoader(
            _Numbered(rows),
            batch_sampler=batches,
            collate_fn=self.encoder.collate,
            num_workers=self.num_workers,
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches; number n of a run is a pure function of the seed and n, so a resume needs no state."""
        assert self.trainer is not None
        trainer = self.trainer
        batches = LengthGroupedBatchSampler(
            [row["length"] for row in self.rows["train"]],
            self.batch_size,
            shuffle=True,
            seed=self.seed,
            drop_last=True,
            group_by_length=self.group_by_length,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            completed_batches=lambda: batches_done(trainer),
        )
        return self._loader(self.rows["train"], batches)

    def val_dataloader(self) -> DataLoader:
        """Validation rows in their own order."""
        assert self.trainer is not None
        batches = LengthGroupedBatchSampler(
            [row["length"] for row in self.rows["validation"]],
            self.validation_batch_size,
            shuffle=False,
            seed=self.seed,
            drop_last=False,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return self._loader(self.rows["validation"], batches)

    def test_dataloader(self) -> DataLoader:
        """Testing reads the validation rows."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Prediction reads the validation rows, in file order; each process takes every world_size-th."""
        assert self.trainer is not None
        # Not `_loader`: for predictions Lightning makes the batch sampler anew, with the arguments of torch's own.
        rows = self.rows["validation"][self.trainer.global_rank :: self.trainer.world_size]
        size = max(1, self.validation_batch_size // self.trainer.world_size)
        return DataLoader(rows, batch_size=size, collate_fn=self.encoder.collate)  # type: ignore[arg-type]
