"""Windows of trajectories as tensors: segments cut to the context, padded behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prl.control.trajectories import PreferenceData

SIDES = ("chosen", "rejected")
_PARTS = ("states", "actions", "steps")


@dataclass(frozen=True)
class Window:
    """Stretches of trajectories of at most as many steps as the context."""

    states: Tensor
    """Before each step [B, T, S], as the environment gives them."""
    actions: Tensor
    """Of each step [B, T, A]."""
    steps: Tensor
    """Number of each step in its trajectory [B, T], from 0."""
    mask: Tensor
    """True where there is a step, False at the padding behind it [B, T]."""

    @classmethod
    def of(cls, batch: Mapping[str, Any], side: str) -> "Window":
        """Take one side of a batch of pairs."""
        return cls(*(batch[f"{side}_{name}"] for name in (*_PARTS, "mask")))


class WindowEncoder:
    """Cuts segments out of trajectories, and puts pairs of them into batches.

    Args:
        state_size: numbers of a state.
        action_size: numbers of an action.
        max_steps: most steps of a trajectory.
        context: steps of a window.
    """

    def __init__(self, state_size: int, action_size: int, max_steps: int, context: int) -> None:
        self.sizes = {"state_size": state_size, "action_size": action_size, "max_steps": max_steps}
        self.context = context

    def check(self, data: PreferenceData, path: str) -> None:
        """Refuse data of other sizes than the model has. Raises ValueError."""
        found = {
            "state_size": data.states.shape[2],
            "action_size": data.actions.shape[2],
            "max_steps": int(data.lengths.max()),
        }
        for name, size in found.items():
            expected = self.sizes[name]
            if size > expected or (size < expected and name != "max_steps"):
                raise ValueError(f"{path} has {name} {size}, model.init_args.networks.{name} is {expected}; set it so")

    def encode(self, data: PreferenceData, pair: int) -> dict[str, Tensor]:
        """Cut both windows of a pair: states, actions and steps of each side, [t, ...] with t up to the context."""
        row = {}
        for side in SIDES:
            trajectory, start = getattr(data, side)[pair]
            end = min(start + self.context, data.lengths[trajectory])
            row[f"{side}_states"] = torch.from_numpy(data.states[trajectory, start:end])
            row[f"{side}_actions"] = torch.from_numpy(data.actions[trajectory, start:end])
            row[f"{side}_steps"] = torch.arange(start, end)
        return row

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad the rows of a batch behind: `Window.of` reads a side of it; `index` [B] is the number of each row."""
        batch = {}
        for side in SIDES:
            for part in _PARTS:
                batch[f"{side}_{part}"] = pad_sequence([row[f"{side}_{part}"] for row in rows], batch_first=True)
            lengths = torch.tensor([len(row[f"{side}_steps"]) for row in rows])
            batch[f"{side}_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        if "index" in rows[0]:
            batch["index"] = torch.tensor([row["index"] for row in rows])
        return batch
