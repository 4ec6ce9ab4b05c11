"""How models are spread over devices. Nothing outside of this package knows a strategy by name."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_modules.strategies.fsdp2 import FSDP2Strategy, check_replicas
from lightning_modules.strategies.judges import finish_judging, spread_judge
from lightning_modules.strategies.sampling import Gather, sampling_from
from lightning_modules.strategies.settings import check_precision, check_setting, shards_of
from lightning_modules.strategies.spreading import (
    before_microbatch,
    clip_gradients,
    discard_gradients,
    gradient_norm,
    held_weights,
    is_sharded,
    keeps_float32_copies,
    settle,
    settle_frozen,
    spread,
    waits_for_all_gradients,
    whole_copy,
    whole_state,
    write,
    write_in_parts,
)
from lightning_modules.strategies.zero import ZeROStrategy, shape_of

StrategyRegistry.register("fsdp2", FSDP2Strategy, "weights in shards over all processes (torch fully_shard)")
for stage in (1, 2, 3):
    StrategyRegistry.register(f"zero{stage}", ZeROStrategy, f"DeepSpeed's ZeRO, stage {stage}", stage=stage)

__all__ = [
    "FSDP2Strategy",
    "Gather",
    "ZeROStrategy",
    "before_microbatch",
    "check_precision",
    "check_replicas",
    "check_setting",
    "clip_gradients",
    "discard_gradients",
    "finish_judging",
    "gradient_norm",
    "held_weights",
    "is_sharded",
    "keeps_float32_copies",
    "sampling_from",
    "settle",
    "settle_frozen",
    "shape_of",
    "shards_of",
    "spread",
    "spread_judge",
    "waits_for_all_gradients",
    "whole_copy",
    "whole_state",
    "write",
    "write_in_parts",
]
