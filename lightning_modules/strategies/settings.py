"""The setting `trainer.strategy`, read before there is a trainer."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import StrategyRegistry

from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from lightning_modules.strategies.zero import ZeROStrategy
from prl.models.memory import Shards

LIVE = 10**9
"""DeepSpeed's own limit (stage3_max_live_parameters) on weights that stay whole between their uses."""
ZERO = ("zero1", "zero2", "zero3")
NO_DEEPSPEED = "trainer.strategy is Lightning's own DeepSpeed; use zero1, zero2 or zero3 (configs/strategies)"
NO_FSDP = "trainer.strategy is torch's older FSDP; use fsdp2 (configs/strategies/fsdp2.yaml)"


def shards_of(strategy: Any) -> Shards:
    """Return which parts of memory a strategy shards.

    Args:
        strategy: a name, or a mapping of `class_path` and `init_args`.

    Raises:
        ValueError: for a strategy that is unknown, or that prl refuses.
    """
    name, arguments = _named(strategy)
    if name in ("fsdp2", FSDP2Strategy.__name__):
        return Shards(weights=True, gradients=True, optimizer=True, replicas=int(arguments.get("replicas", 1)))
    if name in (*ZERO, ZeROStrategy.__name__):
        stage = int(arguments.get("stage", 2)) if name == ZeROStrategy.__name__ else int(name[4:])
        return Shards(weights=stage >= 3, gradients=stage >= 2, optimizer=True, master=True, live=LIVE)
    if name.startswith("deepspeed") or name == "DeepSpeedStrategy":
        raise ValueError(NO_DEEPSPEED)
    if name in ("fsdp", "fsdp_cpu_offload", "FSDPStrategy"):
        raise ValueError(NO_FSDP)
    if isinstance(strategy, str) and "." not in strategy and name not in ("auto", *StrategyRegistry):
        raise ValueError(
            f"trainer.strategy is {name!r}, which is none; take auto, ddp, ddp_find_unused_parameters_true, fsdp2, "
            "zero1, zero2 or zero3, or a file of configs/strategies as a second --config"
        )
    return Shards()


def check_precision(precision: Any) -> None:
    """Refuse a `trainer.precision` in which rewards are rounded and most steps are lost. Raises ValueError."""
    if str(precision) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision is {precision}, which would round everything to 16 bits, rewards and the weights that "
            "learn among them, and lose most steps; use bf16-mixed: float32 weights, computed in bfloat16. What is "
            "frozen (a judge, a reference, a base model under lora) may have dtype: bfloat16"
        )


def check_setting(strategy: Any, accelerator: Any, precision: Any) -> None:
    """Refuse a strategy or a precision before the configuration is instantiated.

    Raises:
        ValueError: as `shards_of` and `check_precision`, and for DeepSpeed without GPUs.
    """
    shards_of(strategy)
    check_precision(precision)
    name, _ = _named(strategy)
    wants_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if name in (*ZERO, ZeROStrategy.__name__) and isinstance(accelerator, str) and not wants_gpu:
        raise ValueError(
            f"trainer.strategy is {name}, and DeepSpeed needs GPUs (trainer.accelerator is {accelerator}, "
            f"{torch.cuda.device_count()} found); fsdp2 and ddp_find_unused_parameters_true work on CPU processes too"
        )


def _named(strategy: Any) -> tuple[str, Mapping[str, Any]]:
    settings: dict[str, Any] = dict(strategy) if isinstance(strategy, Mapping) else {"class_path": str(strategy)}
    return str(settings["class_path"]).rpartition(".")[2], settings.get("init_args") or {}
