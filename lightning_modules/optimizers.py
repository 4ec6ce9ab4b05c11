"""AdamW with a schedule for every stage: one optimizer, because Lightning's DeepSpeed strategy accepts one only."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Trainer
from torch import nn
from transformers import get_scheduler

from prl.config import Optimization


def parameter_group(parameters: Iterable[nn.Parameter], settings: Optimization, name: str) -> list[dict[str, Any]]:
    """Trainable parameters as optimizer groups: matrices with weight decay, the rest without."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": settings.weight_decay, "name": name},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0, "name": f"{name}_vectors"},
    ]
    return [{**group, "lr": settings.learning_rate} for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], settings: Optimization) -> torch.optim.AdamW:
    """AdamW over the groups."""
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2))


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Optimization, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up and schedule.

    Raises:
        ValueError: when the schedule needs a last step and there is none.
    """
    if settings.schedule != "constant" and total_steps <= 0:
        raise ValueError(
            f"optimization.schedule {settings.schedule!r} ends at the last step, but the run has none; set "
            "trainer.max_steps (iterations for PPO), or use schedule: constant"
        )
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup, num_training_steps=max(total_steps, 1))


def configure(parameters: Iterable[nn.Parameter], settings: Optimization, trainer: Trainer) -> dict[str, Any]:
    """What `configure_optimizers` of an automatically optimised stage returns.

    The number of steps is `trainer.max_steps`: asking Lightning for its estimate would build the data loader early.
    """
    optimizer = build_optimizer(parameter_group(parameters, settings, "model"), settings)
    schedule = build_schedule(optimizer, settings, trainer.max_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
