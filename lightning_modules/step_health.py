"""Ends a run whose loss, gradients or weights are not finite, before they are used, written or exported."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.strategies import gradient_norm, held_weights
from prl.checkpoints.position import batches_done, is_dry_run
from prl.distributed import global_sum, rank, world_size
from prl.rl.health import TRAINING_NOT_FINITE, WEIGHTS_NOT_FINITE, HealthError, not_finite
from prl.system.full_disk import save_tensors

if TYPE_CHECKING:
    from lightning_modules.stage import Stage


class StepHealth:
    """Looks at every step that Lightning takes for a stage; what it decides, all ranks decide alike."""

    def __init__(self, module: "Stage") -> None:
        self.module = module
        self._batch: Any = None
        self._loss: Tensor | float = 0.0

    def begin(self, batch: Any) -> None:
        """Remember the batch that comes, for the file that a failure leaves."""
        self._batch = batch

    def add(self, loss: Tensor) -> None:
        """Remember the loss of a batch until the step that it is part of."""
        self._loss = self._loss + loss.detach().float()

    def check_step(self) -> None:
        """Look at losses and gradients before a step.

        Raises:
            HealthError: when one is not finite, on any rank.
        """
        trainer = self.module.trainer
        numbers = {"loss": torch.as_tensor(self._loss), "gradient norm": gradient_norm(trainer, self.module)}
        self._loss = 0.0
        looked_at = {name: number.to(self.module.device) for name, number in numbers.items() if number is not None}
        if not_finite(looked_at):
            values = ", ".join(f"{name} {float(number):g}" for name, number in looked_at.items())
            path = save_batch(trainer, {"sentence": TRAINING_NOT_FINITE, "found": values, **_plain(self._batch)})
            raise HealthError(
                f"batch {batches_done(trainer) + 1}: the loss or a gradient is not finite ({values}). "
                f"{TRAINING_NOT_FINITE}. The run stops before this step: no such number reached the weights, and "
                f"checkpoints are good. The batch is in {path}"
            )

    def check_weights(self) -> None:
        """Look at trained weights before they are written.

        Raises:
            HealthError: when one is not finite, on any rank.
        """
        trainer = self.module.trainer
        counts = [(~weight.isfinite()).sum().to(self.module.device) for weight in held_weights(trainer, self.module)]
        if counts and (count := int(global_sum(torch.stack(counts).sum()))):
            raise HealthError(
                f"after batch {batches_done(trainer)}, {count} {WEIGHTS_NOT_FINITE}. They are not written; earlier "
                "checkpoints stay"
            )


def save_batch(trainer: Any, content: Mapping[str, Any]) -> Path:
    """Keep what a batch was made of in RUN_DIR/health, each rank its own rows; a dry run leaves no file."""
    suffix = f".rank{rank()}" if world_size() > 1 else ""
    path = Path(trainer.default_root_dir) / "health" / f"batch={batches_done(trainer) + 1:06d}{suffix}.pt"
    if not is_dry_run(trainer):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({k: v.cpu() if isinstance(v, Tensor) else v for k, v in content.items()}, path)
    return path


def _plain(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch: a file of them can be read without running code."""
    return {k: v for k, v in batch.items() if isinstance(v, Tensor)} if isinstance(batch, Mapping) else {}
