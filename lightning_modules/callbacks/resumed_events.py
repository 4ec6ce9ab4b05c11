"""TensorBoard after a resume: no repeated steps, and sessions in order."""

import re
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from prl.run_folder.contents import holds_run


class ForgetRepeatedSteps(Callback):
    """Tells TensorBoard to drop what the interrupted run logged after its checkpoint: these batches are repeated.

    TensorBoard orders the files of a run by the time in their names, so a clock that went back between two sessions
    would put the later session first.
    """

    def __init__(self) -> None:
        self._pending = self._trains = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Rename the files of earlier sessions so that they come before this session's, which is open already."""
        writer = _writer(trainer)
        if stage == "fit" and writer is not None:
            put_earlier_files_first(Path(writer.event_writer._file_name))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Delete the curves of an overwritten run; note whether a resumed one has batches to forget."""
        self._trains = True
        self._pending = pl_module.batches_done() > 0
        writer = _writer(trainer)
        if not self._pending and writer is not None:
            if holds_run(Path(trainer.default_root_dir)):
                take_away_others(Path(writer.event_writer._file_name))
            _drop_from(trainer, 0)  # TensorBoard obeys the second such mark of a run and later ones

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Mark the step; Lightning sets its step counter only after `on_train_start`."""
        pending, self._pending = self._pending, False
        if pending:
            _drop_from(trainer, trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Delete the file of a session that failed before training: Lightning opens it first of all."""
        if not self._trains and trainer.state.fn == "fit" and (writer := _writer(trainer)) is not None:
            trainer.logger.experiment.close()  # type: ignore[union-attr]
            Path(writer.event_writer._file_name).unlink(missing_ok=True)


def _drop_from(trainer: Trainer, step: int) -> None:
    """Tell TensorBoard to forget what it has read so far of this step and later ones."""
    if (writer := _writer(trainer)) is not None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))


def _writer(trainer: Trainer) -> Any:
    """Return the writer of this session's event file; None without one."""
    if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
        return None
    writer = trainer.logger.experiment
    return writer._get_file_writer() if hasattr(writer, "_get_file_writer") else None  # a fast_dev_run has none


def take_away_others(own: Path) -> None:
    """Delete the event files beside `own`."""
    for path in own.parent.glob("events.out.tfevents.*"):
        if path != own:
            path.unlink()


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
