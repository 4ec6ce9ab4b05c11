"""Base of data modules: read, check and encode once, then batch in a resumable order."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.loader import SteadyLoader, start_worker
from datamodules.steps import StepLoader
from prl.checkpoints.position import batches_done, is_dry_run
from prl.data import DataError, DataSource, LengthGroupedBatchSampler, Record, RecordStream, held_out
from prl.data.audit import shared_prompts
from prl.data.batching import check_divides
from prl.data.store import Adds, EncodedRecords, encode_records
from prl.data.tokens import Truncation
from prl.distributed import rank
from prl.run_folder.contents import DATA_REPORT
from prl.run_folder.inputs import Inputs
from prl.system.outputs import write_text

log = logging.getLogger(__name__)


class _Numbered(Dataset):
    """Rows with their numbers, by which validations look up texts on any rank.

    Args:
        rows: the rows.
        first: number of the first of them.
        every: what the number grows by from row to row.
    """

    def __init__(self, rows: Any, first: int = 0, every: int = 1) -> None:
        self.rows, self.first, self.every = rows, first, every

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Read the rows of a batch at once."""
        read = zip(indices, self.rows.__getitems__(indices), strict=True)
        return [{**row, "index": self.first + self.every * index} for index, row in read]

    def __len__(self) -> int:
        return len(self.rows)


class _Again:
    """Records that can be iterated several times."""

    def __init__(self, begin: Callable[[], Iterable[Record]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Record]:
        return iter(self.begin())


class RecordDataModule(LightningDataModule):
    """Rows of one kind for one training module, which encodes them; this class never touches a model.

    Args:
        train: source of training rows.
        validation: source of validation rows; null takes `validation_share` of the training prompts.
        batch_size: rows per step over all processes together.
        validation_batch_size: rows per validation batch; `batch_size` when null.
        validation_share: share of the training prompts held out when `validation` is null; all rows of a prompt stay
            on one side.
        on_invalid: error names every bad row before any compute is spent; skip leaves them out and reports them.
        group_by_length: batches of rows of similar length, which saves padding.
        seed: seed of the order and the split.
        num_workers: processes that collate.
        cache: keep encoded rows in prl's cache folder for later runs on the same data; false encodes them again into a
            temporary folder.

    Raises:
        DataError: for bad rows, or a data set without rows to train on.
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
        cache: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("validation_batch_size", validation_batch_size)):
            if size is not None and size < 1:
                raise ValueError(f"data.init_args.{name} is {size}; expected at least 1")
        if validation is None and not 0 < validation_share < 1:
            raise ValueError(
                f"data.validation_share is {validation_share}; without data.validation it must lie between 0 and 1"
            )
        self.train_source, self.validation_source = train, validation
        self.batch_size, self.validation_batch_size = batch_size, validation_batch_size or batch_size
        self.validation_share, self.on_invalid = validation_share, on_invalid
        self.group_by_length, self.seed, self.num_workers, self.cache = group_by_length, seed, num_workers, cache
        self.encoder: Any = None
        self.rows: dict[str, Any] = {}
        """`datasets.Dataset` of the encoded rows of train and validation."""
        self.lengths: dict[str, Any] = {}
        """Tokens of each row of `rows`, int32."""
        self.train_prompts: np.ndarray | None = None
        """SHA-256 of the prompt of each training record, [N] S32."""
        self._contents: Inputs = {}
        self._report: str | None = None
        """Data report of a resumed run, until its data are checked against the checkpoint."""

    def setup(self, stage: str) -> None:
        """Read, check and encode everything once; safe to call twice."""
        if self.rows:
            return
        assert self.trainer is not None
        self._check_batch_sizes(stage)
        self.encoder = self._build_encoder()
        reports: dict[str, Any] = {"train": None}
        if self.validation_source is not None:
            # Validation first: it is usually smaller, and a mistake in it would otherwise show only after hours.
            held_out_records, held_out_kept = self._encode("validation", self.validation_source, reports)
        train_records, train_kept = self._encode("train", self.train_source, reports)
        if self.validation_source is not None:
            shared = shared_prompts(train_records.prompts[train_kept], held_out_records.prompts[held_out_kept])
            self._tell_shared(shared, reports)
        else:
            held_out_records = train_records
            aside = held_out(train_records.prompts[train_kept], self.validation_share, self.seed)
            train_kept, held_out_kept = train_kept[~aside], self._of_data(train_records, train_kept[aside])
        self.rows = {
            "train": self._select("train", train_records, train_kept, reports),
            "validation": self._select("validation", held_out_records, held_out_kept, reports),
        }
        self.train_prompts = train_records.prompts[train_kept]
        self._folders = train_records.folder, held_out_records.folder  # temporary folders live as long as this object
        self._write_report(reports, stage)

    def _build_encoder(self) -> Any:
        """Ask the training module for its encoder. Raises ValueError for one that learns from other rows."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if module.record_type is not self.record_type:
            raise ValueError(
                f"{type(module).__name__} learns from {module.record_type.__name__} rows, but {type(self).__name__} "
                f"gives {self.record_type.__name__} rows; choose the other data module in the config"
            )
        return module.build_encoder()

    def _check_batch_sizes(self, stage: str) -> None:
        trainer: Any = self.trainer
        used = ["batch_size"] if stage == "fit" else []
        used += ["validation_batch_size"] if stage in ("fit", "validate") and trainer.limit_val_batches else []
        for name in used:
            check_divides(f"data.init_args.{name}", getattr(self, name), trainer.world_size)

    def inputs(self) -> Inputs:
        """Hash the data and list the settings that order the rows; `prl.run_folder.inputs` compares them."""
        order: Inputs = {"batch_size": self.batch_size, "seed": self.seed, "group_by_length": self.group_by_length}
        if self.validation_source is None:
            order["validation_share"] = self.validation_share
        lengths = hashlib.sha256(np.ascontiguousarray(self.lengths["train"]).tobytes()).hexdigest()[:32]
        settings = {f"data.{name}": value for name, value in order.items()}
        return {**self._contents, **settings, "data.train.lengths": lengths}

    def _encode(self, name: str, source: DataSource, reports: dict[str, Any]) -> tuple[EncodedRecords, np.ndarray]:
        """Encode the records of a source, and number those that are used."""
        # What an objective declares beyond chosen and rejected is mapped like the columns of every pair.
        declared = getattr(self.encoder, "declared", getattr(self.encoder, "columns", ()))
        stream = RecordStream(source, self.record_type, self.on_invalid, declared)
        usable = _Again(lambda: self._usable(name, stream))
        records = encode_records(stream, usable, self.encoder, self.cache, self._adds(name))
        content = stream.content_hash()
        self._contents[f"data.{name}"] = content if content is None else content[:32]
        for setting in ("split", "name", "columns", "limit"):
            if value := getattr(source, setting):
                self._contents[f"data.{name}.{setting}"] = json.dumps(value, sort_keys=True)
        reports[name] = records.report
        for order, seen in records.report.get("odd_orders", {}).items() if rank() == 0 else ():
            log.warning(
                *("%s: %s in %d rows, first in row %d; few models have seen this order in training", source.path),
                *(order, seen["rows"], seen["first"]),
            )
        return records, np.arange(len(records.truncations))

    def _usable(self, name: str, stream: RecordStream) -> Iterable[Record]:
        """Yield the records of the source `name`, train or validation, after further checks."""
        return stream

    def _adds(self, name: str) -> Adds | None:
        """Return what adds records to those of a source; None where nothing does."""
        return None

    def _of_data(self, records: EncodedRecords, kept: np.ndarray) -> np.ndarray:
        """Leave out the records that the source does not hold, which validate nothing."""
        return kept

    def _tell_shared(self, num_shared: int, reports: dict[str, Any]) -> None:
        assert self.validation_source is not None
        reports["num_shared_prompts"] = num_shared
        if num_shared:
            log.warning(
                "%d prompts of %s are in the training data too, so validation flatters the model; leave validation "
                "out to hold out whole prompts",
                num_shared,
                self.validation_source.path,
            )

    def _select(self, name: str, records: EncodedRecords, kept: np.ndarray, reports: dict[str, Any]) -> Any:
        """Select the rows of one side, and report what truncation removed from its records."""
        lost = {each: int(((records.truncations[kept] & each) > 0).sum()) for each in Truncation}
        rows = records.rows_of(kept)
        if not len(rows):
            raise DataError(f"no {name} row is left of {len(kept)}; see max_length and on_too_long, or the split")
        self.lengths[name] = records.lengths[kept[records.encoded[kept]]]
        reports[f"{name}_tokens"] = {
            "records": len(kept),
            "rows": len(rows),
            "left_out": {"too long": lost[Truncation.TOO_LONG], "identical after the cut": lost[Truncation.IDENTICAL]},
            "lost_turns": lost[Truncation.TURNS],
            "lost_response_ends": lost[Truncation.RESPONSES],
            "lost_prompt_beginnings": lost[Truncation.PROMPT],
            "cut_share": float(((records.truncations[kept] & Truncation.CUT) > 0).mean()),
            "median_length": int(np.sort(self.lengths[name])[len(rows) // 2]),
            "max_length": int(self.lengths[name].max()),
        }
        if len(rows) < len(kept):
            log.warning(
                "%s: of %d records %d are left out as too long, and %d as the same text twice once they were cut",
                name,
                len(kept),
                lost[Truncation.TOO_LONG],
                lost[Truncation.IDENTICAL],
            )
        return rows

    def _write_report(self, reports: dict[str, Any], stage: str) -> None:
        assert self.trainer is not None
        if not self.trainer.is_global_zero or is_dry_run(self.trainer):
            return
        text = json.dumps(reports, indent=2, default=str) + "\n"
        # The report in the run folder belongs to the training, which may be running.
        folder = "" if stage == "fit" else str(getattr(stage, "value", stage))  # Lightning's enumeration, or its word
        path = Path(self.trainer.default_root_dir, folder) / DATA_REPORT
        if stage == "fit" and path.exists():
            self._report = text  # a resume may still be refused, and then the earlier report stays
        else:
            write_text(path, text)

    def _loader(self, rows: Any, batches: Sampler[list[int]], kind: Any = SteadyLoader) -> DataLoader:
        # A generator of its own: otherwise a loader draws its seed from torch's global state, and a validation would
        # change the training that follows.
        return kind(
            _Numbered(rows),
            batch_sampler=batches,
            collate_fn=self.encoder.collate,
            num_workers=self.num_workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader:
        """Build batches in shuffled order.

        Batch n of a run is a pure function of the seed and n, so a resume needs no loader state.
        """
        assert self.trainer is not None
        if self._report is not None and self.trainer.is_global_zero:
            write_text(Path(self.trainer.default_root_dir) / DATA_REPORT, self._report)
        trainer: Any = self.trainer
        only: Any = trainer.overfit_batches  # a number, or a share of an epoch, as Lightning counts them
        if isinstance(only, float):
            only = int(len(self.lengths["train"]) // self.batch_size * only)
        batches = LengthGroupedBatchSampler(
            self.lengths["train"],
            self.batch_size,
            shuffle=True,
            seed=self.seed,
            drop_last=True,
            group_by_length=self.group_by_length,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            completed_batches=lambda: batches_done(trainer),
            only_batches=only or None,
        )
        return self._loader(self.rows["train"], batches, partial(StepLoader, trainer=trainer))

    def val_dataloader(self) -> DataLoader:
        """Build batches of the validation rows in their own order."""
        assert self.trainer is not None
        batches = LengthGroupedBatchSampler(
            self.lengths["validation"],
            self.validation_batch_size,
            shuffle=False,
            seed=self.seed,
            drop_last=False,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return self._loader(self.rows["validation"], batches)

    def test_dataloader(self) -> DataLoader:
        """Read the validation rows."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Read the validation rows in file order; each process takes every world_size-th row."""
        assert self.trainer is not None
        # Not `_loader`: for predictions Lightning builds the batch sampler anew, with the arguments of torch's class.
        rows = self.rows["validation"]
        rows = rows.select(range(self.trainer.global_rank, len(rows), self.trainer.world_size))
        size = max(1, self.validation_batch_size // self.trainer.world_size)
        numbered = _Numbered(rows, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(numbered, batch_size=size, collate_fn=self.encoder.collate)
