"""Checkpoints of a run, counted in training batches, and the end of a run at a signal."""

import contextlib
import logging
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_modules.callbacks.stop_signals import StoppedRun, StopSignals
from lightning_modules.strategies import use_sharded_checkpoints
from prl.checkpoints import files as checkpoint_files
from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.position import batches_done, begin_epoch, is_dry_run
from prl.checkpoints.random_states import random_states, set_random_states
from prl.distributed import world_size
from prl.run_folder.contents import clear_model
from prl.system.full_disk import naming_when_full, save_tensors

log = logging.getLogger(__name__)

MODEL_CHECKPOINT_LAST = "model-checkpoint-last"
"""Name of the newest checkpoint of Lightning's own callback in our folder."""


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes straight to the file; Lightning's own IO copies the checkpoint in memory twice and goes through /tmp.

    Reads sharded checkpoints as well.
    """

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a folder of shards or a file, as data; as pickles only where `weights_only: false` is set."""
        if Path(path).is_dir() or (Path(path).is_file() and kwargs.get("weights_only") is not False):
            return sharded_files.read(path)
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a local path by torch.save, and other addresses by Lightning."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():  # such as `last.ckpt`: writing through the link would corrupt its target
            path.unlink()
        save_tensors(checkpoint, path)


@dataclass(frozen=True)
class _Boundary:
    """State at the end of a batch that may move on before it is saved; weights and registered state do not."""

    batches: int
    epoch: int
    loops: dict[str, Any]
    random: dict[str, Any]
    validation_due: bool
    """Remember whether the validation of this batch is still running."""


class RunCheckpoint(Checkpoint):
    """Writes a checkpoint every `every_n_batches` training batches, at the end, and when a signal ends the run.

    Lightning's ModelCheckpoint counts optimizer steps, and PPO iterations have many, in varying numbers. It can be
    added to keep the best checkpoint by a metric; its `save_last` writes `model-checkpoint-last.ckpt`.
    `prl/checkpoints/files.py` publishes each file when it is complete.

    After SIGTERM, SIGUSR1, SIGHUP, Ctrl-C, or when its output is lost, the run ends at the next place where ranks are
    in step: after a batch, between the phases of a PPO iteration (`TrainingModule.begin_phase`), or after a validation
    batch. The checkpoint holds the state after the last completed batch: before its first update an iteration has
    changed nothing but random states and counters, which are restored, and after it the iteration is completed first.

    Where a validation belongs to the batch, the checkpoint waits for its end, since Lightning would not repeat it: what
    it decides (an early stop, the best checkpoint) is kept. After a stop in between, the resumed run validates first.

    Args:
        dirpath: folder of the checkpoints; the CLI sets it to RUN_DIR/checkpoints.
        every_n_batches: training batches (PPO: iterations) between two checkpoints; 0 writes at the end only.
        keep: newest checkpoints to keep. With two, a resume uses the previous one when the newest is corrupt.
        sharded: write a folder to which each process writes its shards, instead of one file for which the first process
            gathers weights and optimizer state. Any strategy and number of processes reads both.

    Raises:
        ValueError: when no checkpoint would be kept, or sharded under a strategy without shards.
    """

    def __init__(
        self, dirpath: str = "checkpoints", every_n_batches: int = 100, keep: int = 2, sharded: bool = False
    ) -> None:
        if keep < 1:
            raise ValueError(f"checkpoint.keep is {keep}; a run cannot be resumed without one")
        self.folder, self.every_n_batches, self.keep = Path(dirpath), every_n_batches, keep
        self.sharded = sharded
        self.signals = StopSignals()
        self._saved_at = self._epoch_ended_at = -1
        self._due = False
        self._boundary: _Boundary | None = None
        self._own_save = self._validates_first = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing in a fast_dev_run."""
        if is_dry_run(trainer):
            self.every_n_batches = 0
        if stage == "fit":
            self.signals.follow(trainer._signal_connector)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = PlainCheckpointIO()
        if self.sharded:
            use_sharded_checkpoints(trainer.strategy)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Delete checkpoints and model of an overwritten run; note what a resumed run has saved already."""
        pl_module.run_state.check(pl_module)
        begin_epoch(trainer)
        if is_dry_run(trainer):
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                _leave_last_alone(callback, self.folder)
        done = batches_done(trainer)
        if done == 0:
            if trainer.is_global_zero:
                checkpoint_files.clear(self.folder)
                clear_model(Path(trainer.default_root_dir))
            trainer.strategy.barrier("checkpoints cleared")
        elif trainer.ckpt_path is not None:
            given = Path(trainer.ckpt_path).resolve()
            if given.parent == self.folder.resolve() and checkpoint_files.batches_of(given) == done:
                self._saved_at = done
            if self._validates_first:
                _validate(trainer)
                self._validates_first = False
                self._saved_at = -1  # the validation may have changed the state

    @property
    def has_trained(self) -> bool:
        """Whether a step was completed in this session."""
        return self._boundary is not None

    def state_dict(self) -> dict[str, Any]:
        """Return whether a resumed run must validate before it continues."""
        return {"validation_due": self._own_save and self._boundary is not None and self._boundary.validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read whether the resumed run must validate first."""
        self._validates_first = state_dict["validation_due"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when a checkpoint is due, and stop when asked to."""
        done = batches_done(trainer)
        self._due |= bool(self.every_n_batches) and done % self.every_n_batches == 0
        # Checkpoints hold no accumulated gradients, so they are only written after complete steps.
        if not trainer.fit_loop._should_accumulate():
            loops, fetcher = trainer._checkpoint_connector._get_loops_state_dict(), trainer.fit_loop._data_fetcher
            assert fetcher is not None
            validation_due = trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
            self._boundary = _Boundary(done, trainer.current_epoch, loops, random_states(), validation_due)
            self._save_if_due(trainer)
        self.poll(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse two ends of an epoch without a batch in between: Lightning would go on like that for ever.

        Raises:
            RuntimeError: when the counters of a checkpoint are not those of a run.
        """
        done = batches_done(trainer)
        if done == self._epoch_ended_at:
            raise RuntimeError(
                f"an epoch ended after {done} batches, and the next one ended without a batch: the counters of the "
                f"checkpoint {trainer.ckpt_path} are not those of a run. Resume from an earlier checkpoint"
            )
        self._epoch_ended_at = done

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """End the run here if a signal asked for it; the validation is repeated on resume."""
        self.poll(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint that waited for the validation."""
        if self._boundary is not None and self._boundary.batches == batches_done(trainer):
            self._boundary = replace(self._boundary, validation_due=False)
            self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end state, unless it was just saved."""
        if not is_dry_run(trainer):
            self._save(trainer, batches_done(trainer))

    def poll(self, trainer: Trainer) -> None:
        """Save the last boundary and end the run if any rank received a signal.

        Weights and registered state must be as they were at the end of the last batch, and ranks in step.

        Raises:
            StoppedRun: with exit code 128 + signal.
        """
        number = self.signals.agreed(trainer.lightning_module.device)
        if not number:
            return
        held = "no batch was completed in this session, so nothing is saved"
        if self._boundary is not None and not is_dry_run(trainer):
            set_random_states(self._boundary.random)
            self._save_boundary(trainer, self._boundary)
            held = f"the checkpoint in {self.folder} holds {self._boundary.batches} batches, "
            held += f"continue with `prl resume {trainer.default_root_dir}`"
        if trainer.is_global_zero:
            log.warning("stopped by %s: %s", signal.Signals(number).name, held)
        raise StoppedRun(128 + number)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the counters of the last completed batch; a validation or a batch may have begun since."""
        if self._own_save and self._boundary is not None:
            checkpoint["loops"], checkpoint["epoch"] = self._boundary.loops, self._boundary.epoch

    def _save_if_due(self, trainer: Trainer) -> None:
        if self._due and self._boundary is not None and not self._boundary.validation_due:
            self._save_boundary(trainer, self._boundary)
            self._due = False

    def _save_boundary(self, trainer: Trainer, boundary: _Boundary) -> None:
        self._own_save = True
        self._save(trainer, boundary.batches)
        self._own_save = False

    def _save(self, trainer: Trainer, done: int) -> None:
        if done == self._saved_at:
            return
        partial = checkpoint_files.partial_path(self.folder, done)
        if trainer.is_global_zero and os.path.lexists(partial):
            checkpoint_files.remove(partial)
        try:
            with naming_when_full(partial):
                trainer.save_checkpoint(partial, weights_only=False)  # ends with a barrier
                if trainer.is_global_zero:
                    checkpoint_files.publish(partial, world_size=world_size())
        except Exception:
            if trainer.is_global_zero:
                with contextlib.suppress(OSError):
                    checkpoint_files.discard(partial)
            raise
        if trainer.is_global_zero:
            checkpoint_files.prune(self.folder, done, self.keep)
        trainer.strategy.barrier("checkpoint in place")
        self._saved_at = done


def _leave_last_alone(callback: ModelCheckpoint, folder: Path) -> None:
    """Rename the `last` of a ModelCheckpoint with `save_last` where `last.ckpt` is RunCheckpoint's link."""
    if callback.dirpath is None or Path(callback.dirpath).resolve() != folder.resolve():
        return
    if Path(checkpoint_files.LAST).stem == callback.CHECKPOINT_NAME_LAST:
        callback.CHECKPOINT_NAME_LAST = MODEL_CHECKPOINT_LAST
    if Path(callback.last_model_path).name == checkpoint_files.LAST:  # ModelCheckpoint would delete it
        callback.last_model_path = ""


def _validate(trainer: Trainer) -> None:
    """Run the validation that was due in the interrupted run, at its step, as Lightning's training loop does."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
