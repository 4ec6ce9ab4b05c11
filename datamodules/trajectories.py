"""Pairs of segments of trajectories, for policies that learn control from preferences."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import RecordDataModule
from prl.control import PreferenceData, WindowEncoder, read_data
from prl.data import DataError, DataSource
from prl.run_folder.inputs import file_hash


class _Pairs(Dataset):
    """Windows of the pairs of a data set, cut when they are read."""

    def __init__(self, data: PreferenceData, encoder: WindowEncoder, numbers: range) -> None:
        self.data, self.encoder, self.numbers = data, encoder, numbers

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.encoder.encode(self.data, self.numbers[index])

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, indices: range) -> "_Pairs":
        """Take some of the pairs."""
        return _Pairs(self.data, self.encoder, self.numbers[indices.start : indices.stop : indices.step])


class TrajectoryDataModule(RecordDataModule):
    """Trajectories and preferences between their segments, from .npz files; docs/methods/control.md has the arrays.

    Args:
        train: file of training data; the statistics of its states normalise all states.
        validation: file of validation data.
        batch_size: pairs per step over all processes together.
        validation_batch_size: pairs per validation batch; `batch_size` when null.
        seed: seed of the order.
        num_workers: processes that cut windows.

    Raises:
        DataError: for a file that is not whole, or whose arrays do not fit.
    """

    record_type: ClassVar[Any] = PreferenceData

    def __init__(
        self,
        train: DataSource,
        validation: DataSource,
        batch_size: int = 64,
        validation_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            *(train, validation, batch_size, validation_batch_size),
            **{"group_by_length": False, "seed": seed, "num_workers": num_workers},  # type: ignore[arg-type]
        )
        for name, source in (("train", train), ("validation", validation)):
            for setting in ("split", "name", "columns", "limit"):
                if getattr(source, setting):
                    raise ValueError(f"data.init_args.{name}.{setting} is of rows, not of .npz files; leave it out")

    def setup(self, stage: str) -> None:
        """Read and check both files; safe to call twice."""
        if self.rows:
            return
        self._check_batch_sizes(stage)
        self.encoder = self._build_encoder()
        reports = {}
        for name, source in (("validation", self.validation_source), ("train", self.train_source)):
            assert source is not None
            data = read_data(source.path)
            try:
                self.encoder.check(data, source.path)
            except ValueError as error:
                raise DataError(str(error)) from None
            self.rows[name] = _Pairs(data, self.encoder, range(len(data.chosen)))
            self.lengths[name] = np.full(len(data.chosen), self.encoder.context, dtype=np.int32)
            self._contents[f"data.{name}"] = file_hash(Path(source.path))
            reports[name] = {
                **{"path": source.path, "trajectories": len(data.lengths)},
                **{"steps": int(data.lengths.sum()), "pairs": len(data.chosen)},
            }
        self._write_report(reports, stage)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute mean and standard deviation of the training states."""
        return self.rows["train"].data.statistics()
