"""DeepSpeed's ZeRO for steps of several backward passes, with checkpoints that any strategy reads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import Tensor, nn

from lightning_modules.strategies.sharded_checkpoints import LocalShard, ShardedCheckpoints
from prl.checkpoints.sharded import Part
from prl.distributed import give_from_first, rank


class ZeROStrategy(ShardedCheckpoints, DeepSpeedStrategy):
    """Shard optimizer state (`stage: 1`), gradients (2) and weights (3) over all processes, by DeepSpeed.

    Four points differ from Lightning's strategy. Checkpoints are like those of every other strategy. Models are loaded
    before they are sharded, because transformers fills full weights. Frozen models that are not sharded stay outside of
    DeepSpeed, in their own type. The optimizer is torch's, offloaded or not.
    """

    _numbered: list[list[Any]] = []
    """Trained weights by parameter group, as torch's optimizer was given them; none where nothing is trained."""
    _norms: list[Tensor] | None = None
    """Norm of each flat shard over all processes, between `gradient_norm` and the step."""

    def model_sharded_context(self) -> Any:
        """Do nothing while models are read; `partition` shards them afterwards."""
        self._init_config_if_needed()
        return ParallelStrategy.model_sharded_context(self)

    def _format_config(self) -> None:
        super()._format_config()
        assert isinstance(self.config, dict)
        zero = self.config.get("zero_optimization", {})
        if "nvme" in [zero.get(name, {}).get("device") for name in ("offload_optimizer", "offload_param")]:
            raise ValueError(
                "weights or optimizer state on nvme are out of a checkpoint's reach; offload them to the cpu"
            )
        self.config.setdefault("zero_force_ds_cpu_optimizer", False)  # it would be compiled first
        module: Any = self.lightning_module
        if module is not None and module.max_grad_norm is not None:
            self.config["gradient_clipping"] = module.max_grad_norm  # Lightning has none when steps are taken by hand

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Whether each backward pass asks for a step: DeepSpeed's own count does not know where an epoch ends."""
        return False

    def block_backward_sync(self) -> Any:
        """Do nothing around passes that no step follows; their gradients are reduced into shards at once."""
        return nullcontext()

    def _format_batch_size_and_grad_accum_config(self) -> None:
        super()._format_batch_size_and_grad_accum_config()
        assert isinstance(self.config, dict)
        self.config["gradient_accumulation_steps"] = 1  # `before_microbatch` says where a step ends

    def partition(self, model: Any) -> Any:
        """Shard a model that was just loaded in place, one weight after the other.

        Weights come from the first process; others may hold them on the meta device, so that a node reads a model once.
        """
        import deepspeed

        assert isinstance(self.config, dict)
        init = deepspeed.zero.Init(config_dict_or_path=self.config, remote_device=self.remote_device)
        for module in model.modules():
            weights = list(module.parameters(recurse=False))
            if self.config.get("bf16", {}).get("enabled"):  # converted now, because its tensor is empty later
                for weight in weights:
                    weight.data = weight.data.to(torch.bfloat16)
            if any(each.is_meta for each in (*weights, *module.buffers(recurse=False))):
                with _same_parameters():
                    module.to_empty(device=self.root_device, recurse=False)
            init._convert_to_zero_parameters(weights)  # broadcasts each from the first process; all keep their shards
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.root_device)
            give_from_first(buffer)
        return model

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> Any:
        self._check_types(model)
        self._numbered = [list(group["params"]) for group in optimizer.param_groups]
        _hide(model, self.root_device)
        return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        _hide(model, self.root_device)
        super()._initialize_deepspeed_inference(model)

    def _check_types(self, model: nn.Module) -> None:
        found = {each.dtype for each in model.parameters() if each.requires_grad}
        if found != {torch.float32} and self.precision_plugin.precision == "32-true":
            raise ValueError(
                f"trained weights are {', '.join(sorted(map(str, found)))} with trainer.precision 32-true; DeepSpeed "
                "keeps such weights, and a float32 copy beside them, with --trainer.precision bf16-mixed"
            )

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Gather all weights for the duration of the block; each process may then make any number of forward passes."""
        import deepspeed

        self.deepspeed_engine.empty_partition_cache()  # weights in flight would count as gathered
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            hooks = [each for module in model.modules() for each in (module._forward_pre_hooks, module._forward_hooks)]
            before = [each.copy() for each in hooks]
            for each in hooks:  # DeepSpeed's hooks, which would shard each weight again after its first use
                for number in [number for number, hook in each.items() if str(hook.__module__).startswith("deepspeed")]:
                    del each[number]
            try:
                yield
            finally:
                for each, earlier in zip(hooks, before, strict=True):
                    each.clear()
                    each.update(earlier)

    # ---- a step of several backward passes

    @property
    def _zero(self) -> Any:
        """DeepSpeed's optimizer, around torch's."""
        return self.deepspeed_engine.optimizer

    @property
    def _flats(self) -> list[tuple[int, Tensor]]:
        """This process's shards of float32 weights, each one flat tensor, with the number of its parameter group."""
        zero = self._zero
        if self.zero_stage_3:
            return [(zero.sub_group_to_group_id[i], flat) for i, flat in enumerate(zero.fp32_partitioned_groups_flat)]
        return list(enumerate(zero.single_partition_of_fp32_groups))

    def before_microbatch(self, *, last: bool) -> None:
        """Set DeepSpeed's flags of a micro-batch; its engine sets them once per step in its own forward pass."""
        if self.zero_stage_3:
            self._zero.clear_backward_seen_flag()  # else gradients replace those of the micro-batch before
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)

    @torch.no_grad()
    def gradient_norm(self, *, for_step_by_hand: bool = True) -> Tensor:
        """Compute the norm over all gradients before a step that clips it; nan when it is not finite.

        Args:
            for_step_by_hand: keep the norms of the flat shards for a manual step; a step of Lightning's begins with the
                passes.
        """
        zero = self._zero
        if self.zero_stage_3:
            self._norms = zero._get_norm_groups()
        elif zero.cpu_offload:
            parts = zero.params_in_partition
            self._norms = [zero.complete_grad_norm_calculation_for_cpu_offload(part) for part in parts]
        else:
            parts = zero.params_in_partition
            self._norms = [zero.get_grad_norm_direct(zero.averaged_gradients[i], part) for i, part in enumerate(parts)]
        norms = torch.stack([torch.as_tensor(norm, device=self.root_device) for norm in self._norms])
        if not for_step_by_hand:
            self._norms = None
        # DeepSpeed writes -1 for what is not finite.
        return torch.where((norms < 0).any(), torch.nan, torch.linalg.vector_norm(norms))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a step, and skip weights without any gradient so far, as torch does: a policy in critic warm-up."""
        torch_optimizer, flats = self._zero.optimizer, self._flats
        norms, self._norms = self._norms or [torch.ones(())] * len(flats), None
        busy = {
            group
            for (group, flat), norm in zip(flats, norms, strict=True)
            if float(norm) != 0 or "exp_avg" in torch_optimizer.state.get(flat, {})
        }
        idle = [(group, flat) for group, flat in flats if group not in busy]
        groups = [torch_optimizer.param_groups[group] for group in {group for group, _ in idle}]
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        result = super().optimizer_step(*args, **kwargs)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for _, flat in idle:
            torch_optimizer.state.pop(flat, None)
        return result

    def discard_gradients(self) -> None:
        """Discard accumulated gradients, as DeepSpeed does where it skips a step."""
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        if self.zero_stage_3:
            if zero.offload_optimizer:
                zero.reset_cpu_buffers()
            else:
                zero.averaged_gradients = {}
            return
        zero.micro_step_id = -1
        zero._release_preflattened_grad_buffers()
        if zero.cpu_offload:
            zero.reset_cpu_buffers()
        for number in zero.averaged_gradients:
            zero.averaged_gradients[number] = zero.all_grad_tensors[number] = None

    def local_weights(self) -> list[Tensor]:
        """Return this process's shards of the float32 weights, without padding, which DeepSpeed does not initialise."""
        return [part.local for part in self._parts().values()]

    # ---- checkpoints

    def _weights(self) -> dict[str, LocalShard]:
        """Return shards of the trained weights from their float32 copies, which steps change."""
        module: Any = self.lightning_module
        frozen, parts = module.frozen_names(), self._parts()
        state = module.state_dict(keep_vars=True)
        return {
            name: parts[id(value)]
            if id(value) in parts
            else shard_of(value)
            if is_partitioned(value)
            else value.detach()
            for name, value in state.items()
            if name not in frozen
        }

    def _parts(self) -> dict[int, Part]:
        """Map trained weights, by id, to shards of their float32 copies; empty where nothing is trained."""
        flats = self._flats if self._numbered else []
        return {id(each): _part(each, flats[at][1], offset, *rest) for each, at, offset, *rest in self._places()}

    def _moments(self) -> dict[int, dict[str, LocalShard]]:
        states = self._zero.optimizer.state
        flats = self._flats
        found: dict[int, dict[str, LocalShard]] = {}
        for number, (each, at, offset, *rest) in enumerate(self._places()):
            state = states.get(flats[at][1], {})
            if state:
                found[number] = {
                    # Each weight its own number of steps: a reader would count a shared one up for each weight.
                    name: value.clone() if name == "step" else _part(each, value, offset, *rest)
                    for name, value in state.items()
                }
        return found

    def _places(self) -> Iterator[tuple[Any, int, int, int, int]]:
        """Yield each trained weight, its flat shard, its offsets in the shard and in the weight, and its length."""
        zero = self._zero
        for group, parameters in enumerate(self._numbered):
            for each in parameters:
                if self.zero_stage_3:
                    flat, offset, size = zero.grad_position[zero.get_param_id(each)]
                    yield each, flat, offset, *_range(each, size)
                elif each._hp_mapping is None:
                    yield each, group, 0, 0, 0
                else:
                    there, here = each._hp_mapping.get_hp_fragment_address(), each._hp_mapping.lp_fragment_address
                    yield each, group, there.start, here.start, here.numel

    def _param_groups(self) -> list[dict[str, Any]]:
        numbers, found = iter(range(sum(map(len, self._numbered)))), []
        for group, parameters in zip(self._zero.optimizer.param_groups, self._numbered, strict=True):
            settings = {name: value for name, value in group.items() if name != "params"}
            found.append({**settings, "params": [next(numbers) for _ in parameters]})
        return found

    def _restart(self, state: Mapping[str, Any]) -> None:
        optimizer = self._zero.optimizer
        for group, given in zip(optimizer.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in given.items() if name != "params"})
        for group, flat in self._flats:
            settings = optimizer.param_groups[group]
            step_at = flat.device if settings.get("fused") or settings.get("capturable") else "cpu"
            saved = [state["state"][each] for each in state["param_groups"][group]["params"] if each in state["state"]]
            if saved:  # the moments of a weight without gradients are zero
                steps = max(each["step"] for each in saved)
                optimizer.state[flat] = {
                    name: steps.clone().to(step_at) if name == "step" else torch.zeros_like(flat, requires_grad=False)
                    for name in saved[0]
                }

    def _filled(self) -> None:
        """Copy the float32 weights into the weights that compute."""
        zero, parts = self._zero, self._parts()
        if not self.zero_stage_3:
            if parts:
                zero.update_lp_params()
            return
        for each in (each for parameters in self._numbered for each in parameters):
            local = parts[id(each)].local
            each.ds_tensor.data[: local.numel()].copy_(local)
        if zero.persistent_parameters:  # small ones stay whole between steps
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _range(parameter: Any, size: int) -> tuple[int, int]:
    """Return where this process's shard begins in a weight, and its length; the last shard is padded."""
    start = min(rank() * size, parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def shard_of(parameter: Any) -> Part:
    """Return this process's shard of a weight that has no float32 copy."""
    start, size = _range(parameter, parameter.ds_tensor.numel())
    return Part(parameter.ds_tensor.detach().view(-1)[:size], start, shape_of(parameter))


def _part(parameter: nn.Parameter, flat: Tensor, offset: int, start: int, size: int) -> Part:
    return Part(flat.detach()[offset : offset + size], start, shape_of(parameter))


@contextmanager
def _same_parameters() -> Iterator[None]:
    """Change parameters in place when a module moves, so that tied weights stay tied."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _hide(model: nn.Module, device: torch.device) -> None:
    """Keep frozen models that are whole from DeepSpeed, which would convert them, and gather them with the others.

    They stay attributes of the module and are no longer its children, so their buffers are in no checkpoint. A model
    without gradients whose weights a checkpoint holds, such as an average of another, stays a child.
    """
    frozen = model.frozen_names()  # type: ignore[operator]
    for name, child in list(model._modules.items()):
        saved = child is not None and any(f"{name}.{each}" not in frozen for each, _ in child.named_parameters())
        if child is not None and not saved and not any(is_partitioned(p) for p in child.parameters()):
            model.__dict__[name] = model._modules.pop(name).to(device)  # type: ignore[union-attr]


def shape_of(parameter: Tensor) -> torch.Size:
    """Return the full shape of a weight; under stage 3 its tensor is empty between uses."""
    return getattr(parameter, "ds_shape", parameter.shape)


def is_partitioned(parameter: Tensor) -> bool:
    """Return whether a weight is sharded by ZeRO stage 3."""
    return hasattr(parameter, "ds_id")


@contextmanager
def gathered(parameter: Tensor, *, to_write: bool = False) -> Iterator[None]:
    """Gather one weight for the duration of the block; with `to_write`, the first process's value is kept."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if to_write else None):
        yield
