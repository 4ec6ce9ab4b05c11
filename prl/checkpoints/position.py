"""Position of a training run: its completed batches."""

from typing import Any


def batches_done(trainer: Any) -> int:
    """Count training batches (PPO: iterations) completed over the life of a run, resumes included.

    Lightning keeps this number in its checkpoints. `global_step` counts optimizer steps instead; a PPO iteration has
    many.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def is_dry_run(trainer: Any) -> bool:
    """Return whether this is a fast_dev_run, which leaves no files behind."""
    return bool(getattr(trainer, "fast_dev_run", False))


def begin_epoch(trainer: Any) -> None:
    """Count the epoch that begins with a resume from the end of the one before, as a run without a stop does.

    Lightning leaves it out, takes the next checkpoint for one at the end of an epoch, and loses the position within the
    epoch with each further resume. Called where training starts, before its first epoch.
    """
    loop = trainer.fit_loop
    if loop.restarted_mid_epoch and loop.epoch_progress.current.ready == loop.epoch_progress.current.processed:
        loop.reset_restart_stage()
