"""Several sets of adapters on one frozen base model: the policy's own, and others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prl.models.location import ADAPTERS, base_of
from prl.models.weights_check import load_adapters


def is_adapted(model: nn.Module) -> bool:
    """Return whether the model carries adapters on frozen weights."""
    return hasattr(model, "disable_adapter")


def add_adapters(policy: Any, name: str) -> None:
    """Add a second trained set of adapters, shaped like the policy's own; it starts as the identity."""
    with _same_gradients(policy):
        policy.add_adapter(name, policy.peft_config[own_adapters(policy)])
    for _, parameter in adapter_parameters(policy, name):
        parameter.requires_grad_(True)


def own_adapters(policy: Any) -> str:
    """Return the name of the policy's own, active set."""
    (name,) = policy.active_adapters
    return name


def adapter_parameters(policy: nn.Module, name: str) -> list[tuple[str, nn.Parameter]]:
    """List one set of adapters, by parameter names."""
    return [(key, parameter) for key, parameter in policy.named_parameters() if f".{name}." in f"{key}."]


def own_parameters(policy: Any) -> list[tuple[str, nn.Parameter]]:
    """List the trained parameters of a policy, by name, without other sets of adapters."""
    trained = [(key, parameter) for key, parameter in policy.named_parameters() if parameter.requires_grad]
    if not is_adapted(policy):
        return trained
    others = policy.peft_config.keys() - {own_adapters(policy)}
    return [(key, each) for key, each in trained if not any(f".{other}." in f"{key}." for other in others)]


def merge_adapters(adapted: Any) -> Any:
    """Put adapters into the weights of their model, in place.

    Where adapters are on the embeddings or on a head that is tied to them, the two are different weights
    afterwards.
    """
    base = adapted.get_base_model()
    ends = [end for end in (base.get_input_embeddings(), base.get_output_embeddings()) if end is not None]
    weights = [getattr(end, "base_layer", end) for end in ends]
    if any(hasattr(end, "base_layer") for end in ends) and len({id(each.weight) for each in weights}) < len(weights):
        weights[-1].weight = nn.Parameter(weights[-1].weight.detach().clone(), requires_grad=False)
        for config in (base.config, base.config.get_text_config()):
            config.tie_word_embeddings = False
    return adapted.merge_and_unload()


@contextmanager
def using_adapters(policy: Any, name: str) -> Iterator[None]:
    """Activate another set of adapters inside the block, and the policy's own afterwards."""
    own = own_adapters(policy)
    with _same_gradients(policy):
        policy.set_adapter(name)
    try:
        yield
    finally:
        with _same_gradients(policy):
            policy.set_adapter(own)


@contextmanager
def without_adapters(policy: Any) -> Iterator[None]:
    """Disable all adapters inside the block: the base model is the reference of a policy that trains adapters."""
    with _same_gradients(policy), policy.disable_adapter():
        yield


@contextmanager
def _same_gradients(policy: nn.Module) -> Iterator[None]:
    """Restore which parameters require gradients: peft enables the active set, and disables all others."""
    before = [(parameter, parameter.requires_grad) for parameter in policy.parameters()]
    try:
        yield
    finally:
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)


class AdapterOnBase(nn.Module):
    """A frozen model made of adapters on the policy's base model, for the memory of the adapters.

    The policy holds the weights, so this module has no parameters.

    Args:
        policy: a model with adapters of its own.
        base: source of the policy's base model.
        folder: folder of adapters, as peft writes them.

    Raises:
        ValueError: when the folder holds something else, or adapters of another base model.
    """

    def __init__(self, policy: Any, base: str, folder: str) -> None:
        super().__init__()
        check_same_base(policy, base, folder)
        self.name = f"beside_{len(policy.peft_config)}"
        training = policy.training
        with _same_gradients(policy):
            load_adapters(policy, folder, self.name)
        policy.train(training)
        self._policy = (policy,)

    @property
    def config(self) -> Any:
        """Config of the base model."""
        return self._policy[0].config

    def get_input_embeddings(self) -> nn.Module:
        """Return the base model's input embeddings."""
        return self._policy[0].get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the base model's output embeddings."""
        return self._policy[0].get_output_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the base model under these adapters, in eval mode, without gradients."""
        (policy,) = self._policy
        training = policy.training
        policy.eval()
        try:
            with using_adapters(policy, self.name), torch.no_grad():
                return policy(*args, **kwargs)
        finally:
            policy.train(training)


def check_same_base(policy: nn.Module, base: str, folder: str) -> None:
    """Check that a folder holds adapters of the policy's base model. Raises ValueError."""
    if not is_adapted(policy):
        raise ValueError(
            f"{folder} is to work on the policy's base model, but the policy has no adapters; set policy.lora"
        )
    found = base_of(folder)
    if found is None:
        raise ValueError(
            f"{folder} is to work on the policy's base model, but has no {ADAPTERS}: it holds a whole model. Write "
            "its adapters alone with `prl export --adapter-only`, or set share_base_model: false"
        )
    if found != base and Path(found).expanduser().resolve() != Path(base).expanduser().resolve():
        raise ValueError(
            f"{folder} holds adapters of {found}, the policy's are on {base}; adapters share one base model "
            "only where both were trained on it. Train one on the other's base, or set share_base_model: false"
        )


def learning_in_float32(model: Any) -> Any:
    """Cast what learns beside adapters (a scalar head) to float32, whatever type the base has: see `check_learns`."""
    for module in model.modules():
        weights = list(module.parameters(recurse=False))
        if any(each.requires_grad and each.dtype != torch.float32 for each in weights):
            module.float()
            module.register_forward_pre_hook(_in_its_type)
    return model


def _in_its_type(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(each.to(dtype) if torch.is_tensor(each) and each.is_floating_point() else each for each in inputs)
