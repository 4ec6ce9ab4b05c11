"""What stages ask of a strategy, whichever it is."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.strategies import fsdp2, zero
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from lightning_modules.strategies.in_parts import InParts, put_together
from lightning_modules.strategies.settings import NO_DEEPSPEED, NO_FSDP
from lightning_modules.strategies.zero import ZeROStrategy
from prl.checkpoints.sharded import Part
from prl.distributed import gathered


def spread(model: Any, trainer: Any) -> Any:
    """Shard a model that was just read, where the strategy leaves that to us; otherwise it stays as it is."""
    if trainer is None or model is None:
        return model
    _check_strategy(trainer.strategy)
    if not is_sharded(trainer):
        return model
    _check_same(model)
    if isinstance(trainer.strategy, ZeROStrategy):
        return trainer.strategy.partition(model)
    return fsdp2.shard(model, trainer.strategy.mesh, trainer.strategy.root_device)


def _check_strategy(strategy: Any) -> None:
    """Raises ValueError for strategies that would train, and wrongly: a step here is several backward passes long."""
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ZeROStrategy):
        raise ValueError(NO_DEEPSPEED)
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(NO_FSDP)


def _check_same(model: nn.Module) -> None:
    """Raises ValueError, on all processes, when the first one's model is not what the others expect to be handed."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    mine = {name: (tuple(each.shape), str(each.dtype)) for name, each in tensors}
    first, *others = gathered(mine)
    for other in others:
        if wrong := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise ValueError(
                f"{type(model).__name__} as it is read differs from what its config describes, at first in {wrong[0]}, "
                "so its weights cannot be handed out in shards; take one that leaves weights whole (DDP, zero2)"
            )


def is_sharded(trainer: Any) -> bool:
    """Whether no process has the whole model."""
    strategy = trainer.strategy
    return isinstance(strategy, FSDP2Strategy) or (isinstance(strategy, ZeROStrategy) and strategy.zero_stage_3)


def keeps_float32_copies(strategy: Any) -> bool:
    """Whether steps are taken on float32 copies of the weights that work."""
    return isinstance(strategy, ZeROStrategy)


def waits_for_all_gradients(strategy: Any) -> bool:
    """Whether a backward pass that leaves out a trained parameter never ends.

    Lightning's DeepSpeed inherits from its DDP and does not wait.
    """
    is_ddp = isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
    return is_ddp and not strategy._ddp_kwargs.get("find_unused_parameters")


def write_in_parts(strategy: Any) -> None:
    """Let each process write its own part of a checkpoint.

    Raises:
        ValueError: when the strategy cuts nothing.
    """
    if not isinstance(strategy, InParts):
        raise ValueError(
            f"checkpoint.sharded is true with {type(strategy).__name__}, under which every process has everything; "
            "leave it out, or choose a strategy that cuts (configs/strategies)"
        )
    strategy.sharded_checkpoints = True


def settle(model: nn.Module) -> None:
    """Back to shards after forward passes without a backward pass: only then are parameters what an optimizer knows."""
    fsdp2.settle(model)


def settle_frozen(model: nn.Module) -> None:
    """The same for a model that never has a backward pass, which it may wait for in memory."""
    fsdp2.settle_frozen(model)


def whole_copy(parameter: Tensor) -> Tensor:
    """A copy of a weight, whole on every process; of a sharded one in the CPU's memory."""
    if zero.is_partitioned(parameter):
        with zero.gathered(parameter):
            return parameter.detach().to("cpu", copy=True)
    kept = parameter.detach()
    return kept.full_tensor().cpu() if isinstance(kept, DTensor) else kept.clone()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state, whole in the CPU's memory of the first process and empty on the others; all take part."""
    settle(model)
    state = model.state_dict(keep_vars=True)
    held = {
        id(value): zero.shard_of(value) if zero.is_partitioned(value) else fsdp2.held(value) for value in state.values()
    }
    return put_together({name: held[id(value)] for name, value in state.items()})


def write(parameter: Tensor, value: Tensor) -> None:
    """Give a weight the value of a whole tensor that every process has."""
    if zero.is_partitioned(parameter):
        with zero.gathered(parameter, to_write=True):
            parameter.data.copy_(value)
    else:
        held = fsdp2.held(parameter)
        if isinstance(held, Part):
            held.take(value)
        else:
            held.copy_(value)


# ---- a step by hand, several backward passes long


def before_microbatch(trainer: Any, *, last: bool) -> None:
    """Say that a forward and a backward pass begin, and whether they are the last ones before a step."""
    if isinstance(trainer.strategy, ZeROStrategy):
        trainer.strategy.before_microbatch(last=last)


def clip_gradients(trainer: Any, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradient norm over all parameters together and return what it was.

    torch's own function, which knows plain and sharded (DTensor) parameters; Lightning refuses
    `Trainer(gradient_clip_val)` under manual optimisation and its own helper does not say the norm. DeepSpeed clips in
    its step, to the same norm.
    """
    if isinstance(trainer.strategy, ZeROStrategy):
        return trainer.strategy.gradient_norm()
    norm = torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def discard_gradients(trainer: Any, optimizer: Any) -> None:
    """Forget what backward passes have left, after a step or instead of one."""
    if isinstance(trainer.strategy, ZeROStrategy):
        trainer.strategy.discard_gradients()
    else:
        optimizer.zero_grad()


# ---- a step that Lightning takes


def gradient_norm(trainer: Any, module: nn.Module) -> Tensor | None:
    """The norm over all gradients before a step, the same on every process.

    None where gradients that are not finite are in order: a loss scale that is too large makes them so, and is lowered.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if isinstance(trainer.strategy, ZeROStrategy):
        is_scaled = str(trainer.precision).startswith("16")
        return None if is_scaled else trainer.strategy.gradient_norm(for_step_by_hand=False)
    if scaler is not None and scaler.get_scale() >= 1:
        return None
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def held_weights(trainer: Any, module: nn.Module) -> list[Tensor]:
    """What this process holds of the trained weights."""
    if isinstance(trainer.strategy, ZeROStrategy):
        return trainer.strategy.held_weights()
    trained = [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]
    return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in trained]
