"""The checkpoint a run resumes from, counted in training batches."""

import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from prl.run_position import batches_done, is_dry_run

LAST = "last.ckpt"


class RunCheckpoint(Checkpoint):
    """Writes `last.ckpt` every so many training batches and at the end.

    Lightning's ModelCheckpoint counts optimizer steps, of which a PPO iteration has many and not always equally many.
    It can be added beside this one to keep the best by a metric. The file is written aside and moved into place, so
    that a process killed while writing leaves the previous checkpoint whole.

    Args:
        dirpath: folder of the checkpoints; the CLI sets it to RUN_DIR/checkpoints.
        every_n_batches: training batches (PPO: iterations) between two checkpoints; 0 writes at the end only.
    """

    def __init__(self, dirpath: str = "checkpoints", every_n_batches: int = 100) -> None:
        self.path, self.every_n_batches = Path(dirpath) / LAST, every_n_batches
        self._saved_at = -1
        self._due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing is written in a fast_dev_run."""
        if is_dry_run(trainer):
            self.every_n_batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time."""
        done = batches_done(trainer)
        self._due |= bool(self.every_n_batches) and done % self.every_n_batches == 0
        # Accumulated gradients are in no checkpoint, so one is only written after a whole step.
        if self._due and not trainer.fit_loop._should_accumulate():
            self._save(trainer)
            self._due = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end state, unless it was just saved."""
        if not is_dry_run(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        done = batches_done(trainer)
        if done == self._saved_at:
            return
        aside = self.path.with_suffix(".partial")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero and aside.is_file():
            aside.replace(self.path)
        elif trainer.is_global_zero and aside.is_dir():  # sharded checkpoints are folders
            _replace_folder(aside, self.path)
        trainer.strategy.barrier("checkpoint in place")
        self._saved_at = done


def _replace_folder(new: Path, old: Path) -> None:
    # A folder cannot be replaced in one move: killed between the two, the old checkpoint is whole under `.old`.
    retired = old.with_suffix(".old")
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)
