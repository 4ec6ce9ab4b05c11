"""TensorBoard after a resume: no step twice, and sessions in their order."""

import re
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog


class ForgetRepeatedSteps(Callback):
    """Tells TensorBoard to drop what the interrupted run logged after its checkpoint: those batches come again.

    Where a run starts anew in a folder with curves of an earlier one, all of these are dropped. TensorBoard reads the
    files of a run by the time in their names, so a clock that went back between two sessions would put the later one
    first.
    """

    def __init__(self) -> None:
        self._begun, self._pending = False, False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Put the files of earlier sessions before this one's, which is open already."""
        if stage == "fit" and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment
            if hasattr(writer, "_get_file_writer"):  # a fast_dev_run has none
                put_earlier_files_first(Path(writer._get_file_writer().event_writer._file_name))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget an earlier run before the first number of this one, if it starts at its beginning."""
        if not self._begun and pl_module.batches_done() == 0:
            _drop_from(trainer, 0)
        self._begun = True

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Only a resumed run has batches that come again."""
        self.on_sanity_check_start(trainer, pl_module)
        self._pending = pl_module.batches_done() > 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Mark the step; not earlier, since Lightning settles its step counter after `on_train_start`."""
        pending, self._pending = self._pending, False
        if pending:
            _drop_from(trainer, trainer.fit_loop.epoch_loop._batches_that_stepped)


def _drop_from(trainer: Trainer, step: int) -> None:
    """Tell TensorBoard to forget what it has read so far of this step and later ones."""
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        writer = trainer.logger.experiment
        if hasattr(writer, "_get_file_writer"):  # a fast_dev_run has none
            start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
            writer._get_file_writer().add_event(start)


def put_earlier_files_first(own: Path) -> None:
    """Rename event files whose time is not before that of `own`, and keep their order among themselves."""
    times = {path: found for path in own.parent.glob("events.out.tfevents.*") if (found := _time(path)) is not None}
    if (limit := times.pop(own, None)) is None:
        return
    for path in sorted(times, key=lambda path: (times[path], path.name), reverse=True):
        limit -= 1
        if times[path] > limit:
            path.rename(path.with_name(re.sub(r"\d+", f"{limit:010d}", path.name, count=1)))
        limit = min(limit, times[path])


def _time(path: Path) -> int | None:
    found = re.match(r"events\.out\.tfevents\.(\d+)\.", path.name)
    return int(found[1]) if found else None
