"""Sharding of each strategy, behind the interface of `prl.rl.sharding`."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.strategies import fsdp2, zero
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from lightning_modules.strategies.sampling import sampling_from
from lightning_modules.strategies.settings import NO_DEEPSPEED, NO_FSDP
from lightning_modules.strategies.sharded_checkpoints import ShardedCheckpoints, gather_full
from lightning_modules.strategies.zero import ZeROStrategy
from prl.checkpoints.sharded import Part
from prl.distributed import gathered
from prl.rl.sharding import Gather, Sharding


def sharding_of(trainer: Any) -> Sharding:
    """Return the sharding of a trainer's strategy; without a trainer, weights are not sharded.

    Raises:
        ValueError: for strategies whose gradients would silently be wrong in steps of several backward passes.
    """
    if trainer is None:
        return Sharding()
    strategy = trainer.strategy
    if isinstance(strategy, ZeROStrategy):
        return ZeROSharding(strategy)
    if isinstance(strategy, FSDP2Strategy):
        return FSDP2Sharding(strategy)
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(NO_DEEPSPEED)
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(NO_FSDP)
    return DDPSharding(strategy) if isinstance(strategy, DDPStrategy) else Sharding(strategy)


class DDPSharding(Sharding):
    """Full models on every process, with averaged gradients."""

    takes_any_backward_pass = False

    def __init__(self, strategy: DDPStrategy) -> None:
        super().__init__(strategy)
        self.waits_for_all_gradients = not strategy._ddp_kwargs.get("find_unused_parameters")


class FSDP2Sharding(Sharding):
    """Weights, gradients and moments as DTensors."""

    cuts_weights = True
    takes_any_backward_pass = False
    strategy: FSDP2Strategy

    def shard(self, model: Any) -> Any:
        """Wrap each layer by `fully_shard`, and scatter the first process's weights."""
        check_same(model)
        return fsdp2.shard(model, self.strategy.mesh, self.device)

    def reshard(self, model: nn.Module) -> None:
        """Free the layers that forward passes have gathered."""
        fsdp2.reshard(model)

    def reshard_frozen(self, model: nn.Module) -> None:
        """Free gathered layers, and the state that torch keeps until a backward pass."""
        fsdp2.reshard_frozen(model)

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Gather every layer once."""
        with fsdp2.unsharded(model):
            yield

    def sampling(self, model: nn.Module, gather: Gather, *, tokens: int) -> AbstractContextManager[bool]:
        """Put the weights together where they fit."""
        return sampling_from(self, model, gather, tokens=tokens)

    def full_copy(self, parameter: Tensor) -> Tensor:
        """Gather the weight."""
        return _full_copy(parameter)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Gather one weight after the other."""
        self.reshard(model)
        return _full_state_dict(model)

    def assign_full(self, parameter: Tensor, value: Tensor) -> None:
        """Take this process's part."""
        _assign_full(parameter, value)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clip sharded gradients; the norm is over all processes."""
        return _plain(super().clip(parameters, max_norm))

    def gradient_norm(self, module: nn.Module) -> Tensor | None:
        """Take the norm over all processes."""
        return _plain(super().gradient_norm(module))

    def trained_shards(self, module: nn.Module) -> list[Tensor]:
        """List the local shards."""
        trained = super().trained_shards(module)
        return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in trained]


class ZeROSharding(Sharding):
    """Optimizer state, gradients and in stage 3 weights in DeepSpeed's flat shards."""

    takes_any_backward_pass = False
    keeps_float32_copies = True
    strategy: ZeROStrategy

    def __init__(self, strategy: ZeROStrategy) -> None:
        super().__init__(strategy)
        self.cuts_weights = strategy.zero_stage_3

    def shard(self, model: Any) -> Any:
        """Partition the model in stage 3."""
        if not self.cuts_weights:
            return model
        check_same(model)
        return self.strategy.partition(model)

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Gather all weights once."""
        with self.strategy.unsharded(model):
            yield

    def sampling(self, model: nn.Module, gather: Gather, *, tokens: int) -> AbstractContextManager[bool]:
        """Put the weights together where they fit."""
        return sampling_from(self, model, gather, tokens=tokens) if self.cuts_weights else nullcontext(False)

    def full_bytes(self, model: nn.Module) -> int:
        """Count partitioned weights in full: their tensors are empty between uses."""
        return sum(zero.shape_of(each).numel() * each.element_size() for each in model.parameters())

    def full_copy(self, parameter: Tensor) -> Tensor:
        """Gather the weight."""
        return _full_copy(parameter)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Gather one weight after the other."""
        return _full_state_dict(model) if self.cuts_weights else None

    def assign_full(self, parameter: Tensor, value: Tensor) -> None:
        """Take this process's part."""
        _assign_full(parameter, value)

    def begin_microbatch(self, *, last: bool) -> None:
        """Tell DeepSpeed, which would count backward passes by itself."""
        self.strategy.before_microbatch(last=last)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Return the norm; DeepSpeed clips in its step, to the same limit."""
        return self.strategy.gradient_norm()

    def zero_grad(self, optimizer: Any) -> None:
        """Drop DeepSpeed's own buffers."""
        self.strategy.discard_gradients()

    def gradient_norm(self, module: nn.Module) -> Tensor | None:
        """Take DeepSpeed's norm; None in half precision, where numbers that are not finite lower the loss scale."""
        is_scaled = str(self.strategy.precision_plugin.precision).startswith("16")
        return None if is_scaled else self.strategy.gradient_norm(for_step_by_hand=False)

    def trained_shards(self, module: nn.Module) -> list[Tensor]:
        """List the float32 shards."""
        return self.strategy.local_weights()


def use_sharded_checkpoints(strategy: Any) -> None:
    """Let each process write its own part of a checkpoint.

    Raises:
        ValueError: when the strategy shards nothing.
    """
    if not isinstance(strategy, ShardedCheckpoints):
        raise ValueError(
            f"checkpoint.sharded is true with {type(strategy).__name__}, under which every process has everything; "
            "leave it out, or choose a strategy that cuts (configs/strategies)"
        )
    strategy.sharded_checkpoints = True


def check_same(model: nn.Module) -> None:
    """Check that all processes have models of one shape. Raises ValueError on all of them."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    mine = {name: (tuple(each.shape), str(each.dtype)) for name, each in tensors}
    first, *others = gathered(mine)
    for other in others:
        if wrong := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise ValueError(
                f"{type(model).__name__} as it is read differs from what its config describes, at first in {wrong[0]}, "
                "so its weights cannot be handed out in shards; take one that leaves weights whole (DDP, zero2)"
            )


def _plain(norm: Any) -> Any:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _full_copy(parameter: Tensor) -> Tensor:
    if zero.is_partitioned(parameter):
        with zero.gathered(parameter):
            return parameter.detach().to("cpu", copy=True)
    kept = parameter.detach()
    return kept.full_tensor().cpu() if isinstance(kept, DTensor) else kept.clone()


def _full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    shards = {
        id(value): zero.shard_of(value) if zero.is_partitioned(value) else fsdp2.local_shard(value)
        for value in state.values()
    }
    return gather_full({name: shards[id(value)] for name, value in state.items()})


def _assign_full(parameter: Tensor, value: Tensor) -> None:
    if zero.is_partitioned(parameter):
        with zero.gathered(parameter, to_write=True):
            parameter.data.copy_(value)
        return
    shard = fsdp2.local_shard(parameter)
    if isinstance(shard, Part):
        shard.take(value)
    else:
        shard.copy_(value)
