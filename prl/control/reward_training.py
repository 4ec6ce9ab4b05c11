"""Short training of a control policy on any reward of whole trajectories, by the cross-entropy method."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prl.control.environment import Environment, Policy

Sums = Callable[[Tensor, Tensor], list[dict[str, float]]]
"""States [N, T + 1, S] and actions [N, T, A] -> component sums of N trajectories."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a linear policy is trained. Raises ValueError for a number out of range."""

    steps: int = 12
    """Generations."""
    population: int = 48
    """Policies of a generation."""
    elite: int = 8
    """Policies whose mean and standard deviation the next generation is drawn from."""
    episodes: int = 4
    """Episodes of each policy, the same first states for all of a generation."""
    scale: float = 10.0
    """Standard deviation of the first weights."""

    def __post_init__(self) -> None:
        for name in ("steps", "population", "elite", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; expected at least 1")
        if self.elite > self.population or not self.scale > 0:
            raise ValueError(f"training.elite is {self.elite} and scale {self.scale}; expected at most population, > 0")


@dataclass(frozen=True)
class Trained:
    """A policy, and how its reward's components went."""

    policy: Policy
    curves: dict[str, list[float]]
    """Mean of each component over the elite of each generation."""


def linear_policy(weights: Tensor) -> Policy:
    """Act by a linear function of the state: weights [A, S + 1], the last column a constant."""
    return lambda states, actions, steps: (states[:, -1] @ weights[:, :-1].T + weights[:, -1]).clamp(-1, 1)


def train_policy(environment: Environment, sums: Sums, settings: TrainingSettings, seed: int) -> Trained:
    """Draw policies, keep those whose trajectories have the highest reward, and draw around them again.

    Args:
        environment: the task; its own rewards are not looked at.
        sums: the reward.
        settings: sizes.
        seed: of every draw.
    """
    draw = torch.Generator().manual_seed(seed)
    shape = (environment.action_size, environment.state_size + 1)
    mean, deviation = torch.zeros(shape), torch.full(shape, settings.scale)
    curves: dict[str, list[float]] = {}
    for _ in range(settings.steps):
        weights = mean + deviation * torch.randn(settings.population, *shape, generator=draw)
        states, actions = _played(environment, weights, settings.episodes, draw)
        found = sums(states, actions)
        total = torch.tensor([sum(each.values()) for each in found], dtype=torch.float64)
        best = total.view(settings.population, settings.episodes).mean(1).topk(settings.elite).indices
        mean, deviation = weights[best].mean(0), weights[best].std(0, correction=0) + 0.02 * settings.scale
        rows = [settings.episodes * number + n for number in best.tolist() for n in range(settings.episodes)]
        for name in found[0]:
            curves.setdefault(name, []).append(sum(found[row][name] for row in rows) / len(rows))
    return Trained(linear_policy(mean), curves)


def _played(environment: Environment, weights: Tensor, episodes: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Play each of N policies from the same first states: states [N * episodes, T + 1, S], actions."""
    now = environment.start(episodes, draw).repeat(len(weights), 1)
    each = weights.repeat_interleave(episodes, 0)
    states, actions = [now], []
    for _ in range(environment.num_steps):
        acted = (torch.einsum("nas,ns->na", each[:, :, :-1], now) + each[:, :, -1]).clamp(-1, 1)
        now, _ = environment.step(now, acted)
        states.append(now)
        actions.append(acted)
    return torch.stack(states, 1), torch.stack(actions, 1)
