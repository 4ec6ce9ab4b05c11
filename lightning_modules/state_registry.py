"""State of a run beside weights, optimizer and random states, under one key of the checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from lightning import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from prl.rewards.base import RewardSource


@runtime_checkable
class Stateful(Protocol):
    """A part of a run with a state of numbers, texts and tensors, so that reading it runs no code."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Continue from a saved state."""


class StateRegistry:
    """Stateful parts of a training module, by name.

    Parts may change between the update of a batch and its end. A stop in between saves the state of the last completed
    batch (`RunCheckpoint`).
    """

    def __init__(self) -> None:
        self.parts: dict[str, Stateful] = {}

    def register(self, name: str, part: Stateful) -> None:
        """Keep the state of `part` in checkpoints as `name`.

        Raises:
            ValueError: for a name that is taken.
        """
        if name in self.parts:
            raise ValueError(f"a part named {name!r} is registered already")
        self.parts[name] = part

    def register_methods(self, **methods: Any) -> None:
        """Keep the states of methods in a configuration, alone or in lists and dicts.

        Args:
            methods: methods by the names of their settings; parts of lists are named by number, of dicts by key.
        """
        for name, part in _stateful_parts(methods):
            self.register(name, part)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of each part.

        Raises:
            ValueError: when the saved parts are not the registered ones.
        """
        if state.keys() != self.parts.keys():
            missing, unknown = sorted(self.parts.keys() - state.keys()), sorted(state.keys() - self.parts.keys())
            raise ValueError(
                f"the checkpoint and this run differ in stateful parts: missing in the checkpoint {missing}, unknown "
                f"to this run {unknown}; continue with the settings and the version of prl that wrote it"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def check(self, owner: Any) -> None:
        """Find stateful parts that no checkpoint would hold.

        Raises:
            ValueError: when an attribute of `owner` has a state and is not registered.
        """
        for name, part in _stateful_parts(vars(owner)):
            if not self._has(part):
                raise ValueError(
                    f"{type(owner).__name__}.{name} has a state that no checkpoint keeps; register it in __init__: "
                    f"self.run_state.register({name!r}, self.{name})"
                )

    def _has(self, value: Any) -> bool:
        return any(value is part for part in self.parts.values())


def _stateful_parts(named: Mapping[str, Any]) -> Iterator[tuple[str, Stateful]]:
    """List the stateful parts among values, and inside lists, dicts and reward sources, by dotted names."""
    for name, value in named.items():
        inner: Mapping[str, Any] = {}
        if _is_part(value):
            yield name, value
        elif isinstance(value, RewardSource):  # its tensors are in the module's state, its shapers are not
            inner = {**vars(value), **dict(value.named_children())}
        elif isinstance(value, nn.ModuleDict):
            inner = dict(value.named_children())
        elif isinstance(value, list | tuple):
            inner = {str(number): each for number, each in enumerate(value)}
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            inner = value
        hidden = {key for key in inner if key.startswith("_")}
        yield from _stateful_parts({f"{name}.{key}": inner[key] for key in inner if key not in hidden})


def _is_part(value: Any) -> bool:
    kept_by_lightning = (nn.Module, Optimizer, LRScheduler, Trainer, StateRegistry)
    return isinstance(value, Stateful) and not isinstance(value, (*kept_by_lightning, type))
