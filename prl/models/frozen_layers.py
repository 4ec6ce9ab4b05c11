"""Frozen lower layers of a model, read once for equal inputs.

Adapters on upper layers alone leave every layer below the first of them as it was. A policy, its reference (adapters
off) and a critic by adapters then compute equal hidden states there, in each of their passes over equal rows, and no
gradient goes there. `FrozenLayers` keeps the hidden states of the first of these passes for those behind it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Inputs = tuple[tuple[Any, ...], ...]
"""The arguments of a pass; tensors by the digest of their contents."""

OF_EVERY_LAYER = ("use_cache", "output_hidden_states", "output_attentions")
"""Arguments of a pass that asks for something of every layer."""


class FrozenLayers:
    """Reads the frozen lower layers of a model once for equal inputs; all numbers stay equal to the bit.

    The model is tried on the first inputs: as it reads them, keeping hidden states, and from the kept ones. A model
    whose three results differ in any bit reads all its layers in every pass. Passes that ask for something of
    every layer, such as a cache of keys and values, read all layers too.

    Args:
        model: causal language model or backbone with its adapters; which parameters learn is read once, here.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owner, self._layers = frozen_layers(model)
        self._config = _text_config(model)
        self._states: dict[Inputs, Any] = {}
        self._inputs: Inputs | None = None
        self._able: bool | None = None if self._layers else False

    def __len__(self) -> int:
        """Return the number of layers that are read once; 0 for a model that cannot."""
        return 0 if self._able is False else len(self._layers)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the hidden states that are kept."""
        tensors = [each for state in self._states.values() for each in _tensors(state)]
        return sum(each.numel() * each.element_size() for each in tensors)

    def bytes_of(self, tokens: int) -> int:
        """Compute the bytes of the hidden states that would be kept of so many tokens."""
        weight = next(self._layers[0].parameters())
        return tokens * self._config.hidden_size * weight.element_size()

    @contextmanager
    def once(self) -> Iterator[None]:
        """Have the passes of the model inside the block keep hidden states, or begin with kept ones."""
        if not len(self):
            yield
            return
        patches: list[tuple[nn.Module, Callable[..., Any]]] = [(self._owner, self._read)]
        patches += [(each, self._read_last if each is self._layers[-1] else self._read_layer) for each in self._layers]
        earlier = [module.__dict__.get("forward") for module, _ in patches]
        for module, read in patches:  # not by hooks: a hook cannot leave a layer out, and peft calls forward itself
            module.forward = partial(read, module.forward)
        try:
            yield
        finally:
            for (module, _), before in zip(patches, earlier, strict=True):
                del module.forward
                if before is not None:
                    module.forward = before

    def forget(self) -> None:
        """Drop the kept hidden states, because the weights or the rows are going to be others."""
        self._states.clear()

    def _read(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        inputs = None if self._able is False else _inputs_of(args, kwargs)
        if inputs is not None and self._able is None:
            self._able = self._agrees(forward, inputs, args, kwargs)
        return self._reuse(inputs if self._able else None, forward, args, kwargs)

    def _reuse(self, inputs: Inputs | None, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._inputs = inputs
        try:
            return forward(*args, **kwargs)
        finally:
            self._inputs = None

    def _read_layer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the kept output of the last frozen layer in place of this layer's: the layers above read no other."""
        if self._inputs is None or self._inputs not in self._states:
            return forward(*args, **kwargs)
        return self._states[self._inputs]

    def _read_last(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inputs is not None and self._inputs not in self._states:
            self._states[self._inputs] = _detached(forward(*args, **kwargs))
        return self._read_layer(forward, *args, **kwargs)

    @torch.no_grad()
    def _agrees(self, forward: Callable[..., Any], inputs: Inputs, args: Any, kwargs: Any) -> bool:
        """Return whether a pass that keeps hidden states, and one from kept ones, give the bits of a whole pass."""
        whole, keeping, reusing = (None, inputs, inputs)
        try:
            found = [self._reuse(each, forward, args, kwargs)[0] for each in (whole, keeping, reusing)]
            reason = None if all(torch.equal(found[0], each) for each in found[1:]) else "hidden states differ"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model may do anything with what its layers return
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            self.forget()
            log.warning(
                "%s reads its frozen layers in every pass (set resources.reuse_frozen_layers: false to do so without "
                "this line): it does not begin with kept hidden states as it reads whole (%s)",
                *(type(self._owner).__name__, reason),
            )
        return reason is None


def frozen_layers(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """Find the module that calls a model's decoder layers, and the layers below everything that learns.

    The list is empty where embeddings learn, or where the layers are not the one `ModuleList` of their number.
    """
    count = getattr(_text_config(model), "num_hidden_layers", None)
    found = [
        (owner, list(child))
        for owner in model.modules()
        for child in owner.children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        return model, []
    owner, layers = found[0]
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    above = {id(each) for layer in layers for each in layer.parameters()} | _head_alone(model)
    if trained - above:
        return owner, []
    frozen: list[nn.Module] = []
    for layer in layers:
        if any(id(each) in trained for each in layer.parameters()):
            return owner, frozen
        frozen.append(layer)
    return owner, []  # nothing in a layer learns, so there is no pass to save for


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _head_alone(model: Any) -> set[int]:
    """Return the ids of the language head's parameters, without those that it shares with the embeddings."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    shared = {id(each) for each in embeddings.parameters()}
    return set() if head is None else {id(each) for each in head.parameters()} - shared


def _inputs_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs | None:
    """Return what tells the inputs of a pass from others; None for inputs that a pass changes or learns from."""
    if any(kwargs.get(name) for name in OF_EVERY_LAYER):
        return None
    try:
        return tuple((name, _contents(value)) for name, value in [*enumerate(args), *sorted(kwargs.items())])
    except TypeError:
        return None


def _contents(value: Any) -> Any:
    """Return what tells a value from others. Raises TypeError for one that a pass changes or learns from."""
    if isinstance(value, Tensor) and not value.requires_grad:
        return (tuple(value.shape), value.dtype, _digest(value))
    if isinstance(value, tuple):  # of tensors, such as the blocks of a row
        return tuple(map(_contents, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(type(value).__name__)


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data, digest_size=16).digest()


def _detached(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_detached(each) for each in output)
    return output.detach() if isinstance(output, Tensor) else output


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, tuple):
        return [tensor for each in output for tensor in _tensors(each)]
    return [output] if isinstance(output, Tensor) else []
