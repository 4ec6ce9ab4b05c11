"""Strategies that shard models over devices. Code outside of this package knows no strategy by name."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_modules.strategies.fsdp2 import FSDP2Strategy, check_replicas
from lightning_modules.strategies.settings import check_precision, check_setting, shards_of
from lightning_modules.strategies.sharding import sharding_of, use_sharded_checkpoints
from lightning_modules.strategies.zero import ZeROStrategy, shape_of

StrategyRegistry.register("fsdp2", FSDP2Strategy, "weights sharded over all processes (torch fully_shard)")
for stage in (1, 2, 3):
    StrategyRegistry.register(f"zero{stage}", ZeROStrategy, f"DeepSpeed's ZeRO, stage {stage}", stage=stage)

__all__ = [
    "FSDP2Strategy",
    "ZeROStrategy",
    "check_precision",
    "check_replicas",
    "check_setting",
    "shape_of",
    "sharding_of",
    "shards_of",
    "use_sharded_checkpoints",
]
