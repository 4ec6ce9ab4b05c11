"""AdamW with a schedule for every method: one optimizer, because Lightning's DeepSpeed strategy accepts one only."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from torch import nn

from lightning_modules.strategies import shape_of, sharding_of
from prl.config import Optimization
from prl.models.adapters import own_parameters
from prl.models.critic import critic_parameters


def parameter_group(parameters: Iterable[nn.Parameter], settings: Optimization, name: str) -> list[dict[str, Any]]:
    """Split trainable parameters into optimizer groups: matrices with weight decay, the rest without."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {
            "params": [p for p in trainable if len(shape_of(p)) >= 2],
            "weight_decay": settings.weight_decay,
            "name": name,
        },
        {"params": [p for p in trainable if len(shape_of(p)) < 2], "weight_decay": 0.0, "name": f"{name}_vectors"},
    ]
    return [{**group, "lr": settings.learning_rate} for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], settings: Optimization, precision: str) -> torch.optim.AdamW:
    """Build AdamW over the groups, fused into one kernel where the device has one.

    The fused kernel is several times faster and needs no temporaries. In mixed precision Lightning does not clip
    gradients for it, so torch's default is used there.
    """
    has_kernel = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    fused = has_kernel and not precision.endswith("-mixed")
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=fused or None
    )


def check_learns(groups: list[dict[str, Any]]) -> None:
    """Refuse weights of a type in which most steps are rounded away. Raises ValueError."""
    for group in groups:
        found = {str(p.dtype).removeprefix("torch.") for p in group["params"] if torch.finfo(p.dtype).bits < 32}
        if found:
            name = group["name"].removesuffix("_vectors")
            raise ValueError(
                f"the {name} is to learn in {', '.join(sorted(found))}, where most steps are rounded away: at a "
                "learning rate of 1e-6 fewer than one weight in a hundred moves. "
                f"Set dtype: float32 for the {name}, with trainer.precision: bf16-mixed to compute in bfloat16, or "
                "train adapters (lora) on a base of this type"
            )


def learning_rate_factor(step: int, settings: Optimization, total_steps: int) -> float:
    """Compute the share of the peak learning rate at optimizer step `step` (from 0): warm-up, then the schedule.

    Unlike in the schedules of transformers, the first step has a rate above zero: a PPO iteration is too expensive to
    be spent at a rate of zero.
    """
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - settings.warmup) / max(total_steps - settings.warmup, 1), 1.0)
    return 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def build_schedule(
    optimizer: torch.optim.Optimizer,
    settings: Optimization,
    total_steps: int,
    *,
    critic_warmup: Callable[[], int] = lambda: 0,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Build warm-up and schedule of every parameter group.

    Args:
        optimizer: an optimizer with groups of `parameter_group`.
        settings: settings of the schedule.
        total_steps: last step of the run; 0 or less when unknown.
        critic_warmup: steps in which only the critic learns, as far as is known. The critic's rate starts at the peak,
            and the policy's warm-up begins after these steps.

    Raises:
        ValueError: when the schedule needs a last step and it is unknown.
    """
    if settings.schedule != "constant" and total_steps <= 0:
        raise ValueError(
            f"optimization.schedule {settings.schedule!r} ends at the last step, but the run has none; set "
            "trainer.max_steps (iterations for PPO), or use schedule: constant"
        )

    def factor(step: int, is_critic: bool) -> float:
        if is_critic:
            return learning_rate_factor(step, replace(settings, warmup=0), total_steps)
        alone = critic_warmup()
        return learning_rate_factor(max(step - alone, 0), settings, total_steps - alone)

    critics = [group["name"].startswith("critic") for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [partial(factor, is_critic=critic) for critic in critics])


def continue_schedule(schedule: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Set the rate of each parameter group to this run's schedule at the current step.

    A resumed optimizer has the next rate of its checkpoint's schedule, which is 0 where a complete run is extended.
    For an unchanged schedule the two rates are equal to the last bit.
    """
    rates = [
        base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def configure(
    parameters: Iterable[nn.Parameter],
    settings: Optimization,
    trainer: Trainer,
    critic: nn.Module | None = None,
    *,
    critic_learning_rate: float | None = None,
) -> dict[str, Any]:
    """Build the return value of `configure_optimizers` for an automatically optimised module.

    The number of steps is `trainer.max_steps`: Lightning's estimate would build the data loader early.

    Args:
        parameters: what learns beside the critic.
        settings: learning rate and schedule.
        trainer: the trainer; strategy and precision decide about types and kernels.
        critic: the critic; None for none.
        critic_learning_rate: its learning rate; that of `settings` when None.
    """
    groups = parameter_group(parameters, settings, "model") + _critic_groups(critic, settings, critic_learning_rate)
    if not sharding_of(trainer).keeps_float32_copies:
        check_learns(groups)
    optimizer = build_optimizer(groups, settings, trainer.precision)
    schedule = build_schedule(optimizer, settings, trainer.max_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _critic_groups(critic: nn.Module | None, settings: Optimization, rate: float | None) -> list[dict[str, Any]]:
    if critic is None:
        return []
    own = settings if rate is None else replace(settings, learning_rate=rate)
    return parameter_group(critic_parameters(critic), own, "critic")


def configure_actor_critic(
    policy: Any,
    critic: nn.Module | None,
    settings: Optimization,
    trainer: Trainer,
    *,
    critic_learning_rate: float | None,
    iterations: int,
    critic_warmup: Callable[[], int],
) -> Any:
    """Build one optimizer for policy and critic, as groups with their own learning rates; its steps are iterations.

    Args:
        policy: the policy; its trained parameters learn.
        critic: the critic; None for none.
        settings: learning rate and schedule.
        trainer: the trainer; strategy and precision decide about types and kernels.
        critic_learning_rate: learning rate of the critic; that of `settings` when None.
        iterations: iterations of the run.
        critic_warmup: iterations in which only the critic learns, as far as is known.
    """
    groups = parameter_group([parameter for _, parameter in own_parameters(policy)], settings, "policy")
    groups += _critic_groups(critic, settings, critic_learning_rate)
    if not sharding_of(trainer).keeps_float32_copies:
        check_learns(groups)
    optimizer = build_optimizer(groups, settings, str(trainer.precision))
    return {
        "optimizer": optimizer,
        "lr_scheduler": build_schedule(optimizer, settings, iterations, critic_warmup=critic_warmup),
    }
