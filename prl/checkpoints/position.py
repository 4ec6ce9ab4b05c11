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
