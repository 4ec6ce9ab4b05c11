"""End of a run whose loss, gradients or weights are not finite, before they are used, written or exported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_modules.strategies import sharding_of
from prl.checkpoints.position import batches_done, is_dry_run
from prl.distributed import global_sum
from prl.rl.health import TRAINING_NOT_FINITE, WEIGHTS_NOT_FINITE, HealthError, not_finite
from prl.rl.health_monitor import save_batch


class StepHealth:
    """Checks the steps of automatic optimisation; all ranks decide alike."""

    def __init__(self, module: LightningModule) -> None:
        self.module = module
        self._batch: Any = None
        self._loss: Tensor | float = 0.0

    def begin(self, batch: Any) -> None:
        """Keep the batch, for the file of a failure."""
        self._batch = batch

    def add(self, loss: Tensor) -> None:
        """Keep the loss of a batch until its step."""
        self._loss = self._loss + loss.detach().float()

    def check_step(self) -> None:
        """Check losses and gradients before a step.

        Raises:
            HealthError: when one is not finite, on any rank.
        """
        trainer = self.module.trainer
        norm = None if _is_scaled(trainer) else sharding_of(trainer).gradient_norm(self.module)
        numbers = {"loss": torch.as_tensor(self._loss), "gradient norm": norm}
        self._loss = 0.0
        looked_at = {name: number.to(self.module.device) for name, number in numbers.items() if number is not None}
        if not_finite(looked_at):
            values = ", ".join(f"{name} {float(number):g}" for name, number in looked_at.items())
            number, content = batches_done(trainer) + 1, {"sentence": TRAINING_NOT_FINITE, "found": values}
            kept = save_batch(health_folder(trainer), number, content | _plain(self._batch))
            raise HealthError(
                f"batch {number}: the loss or a gradient is not finite ({values}). "
                f"{TRAINING_NOT_FINITE}. The run stops before this step: no such number reached the weights, and "
                f"checkpoints are good. The batch is {kept}"
            )

    def check_weights(self) -> None:
        """Check trained weights before they are written.

        Raises:
            HealthError: when one is not finite, on any rank.
        """
        trainer = self.module.trainer
        counts = [
            (~weight.isfinite()).sum().to(self.module.device)
            for weight in sharding_of(trainer).trained_shards(self.module)
        ]
        if counts and (count := int(global_sum(torch.stack(counts).sum()))):
            raise HealthError(
                f"after batch {batches_done(trainer)}, {count} {WEIGHTS_NOT_FINITE}. They are not written; earlier "
                "checkpoints stay"
            )


def health_folder(trainer: Any) -> Path | None:
    """Return the folder for batches with numbers that are not finite; None in a dry run, which writes no files."""
    return None if is_dry_run(trainer) else Path(trainer.default_root_dir) / "health"


def _is_scaled(trainer: Any) -> bool:
    """Return whether losses are scaled: a scaler handles gradients that are not finite by lowering its scale."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() >= 1


def _plain(batch: Any) -> dict[str, Tensor]:
    """Pick the tensors of a batch: a file of tensors is read without running code."""
    return {k: v for k, v in batch.items() if isinstance(v, Tensor)} if isinstance(batch, Mapping) else {}
