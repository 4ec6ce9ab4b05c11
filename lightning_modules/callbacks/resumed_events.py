"""TensorBoard after a resume: no step twice."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog


class ForgetRepeatedSteps(Callback):
    """Tells TensorBoard to drop what the interrupted run logged after its checkpoint: those batches come again."""

    def __init__(self) -> None:
        self._pending = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Only a resumed run has anything to forget."""
        self._pending = pl_module.batches_done() > 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Mark the step; not earlier, since Lightning settles its step counter after `on_train_start`."""
        pending, self._pending = self._pending, False
        if pending and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment._get_file_writer()
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
