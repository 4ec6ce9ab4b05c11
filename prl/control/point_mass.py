"""A point on a square that should come to a goal, and its offline data: trajectories of mixed quality, with labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prl.control.environment import Environment, play
from prl.control.trajectories import PreferenceData

DRAG, FORCE = 0.8, 0.04
"""Share of the velocity that is left after a step, and velocity that a full action adds: at most 0.2 a step."""
GOAL = (0.5, 0.5)
GAIN, DAMPING = 20.0, 20.0
"""Acceleration of the expert per distance to its target, and against its velocity."""


class PointMass(Environment):
    """A point with inertia in the square [-1, 1]²; the reward of a step is minus the distance to the goal after it.

    A state is x, y and the velocity; an action accelerates along both axes. Walls stop the point.
    """

    state_size = 4
    action_size = 2
    num_steps = 40

    def start(self, episodes: int, generator: torch.Generator) -> Tensor:
        """Draw places from the square, at rest."""
        places = torch.rand(episodes, 2, generator=generator) * 2 - 1
        return torch.cat([places, torch.zeros(episodes, 2)], 1)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Accelerate, move, and stop at walls."""
        velocity = DRAG * states[:, 2:] + FORCE * actions
        free = states[:, :2] + velocity
        places = free.clamp(-1, 1)
        velocity = torch.where(places == free, velocity, 0.0)
        return torch.cat([places, velocity], 1), -(places - torch.tensor(GOAL)).norm(dim=1)

    def expert(self, states: Tensor) -> Tensor:
        """Head for the goal and brake in time."""
        return steer(states, torch.tensor(GOAL))


def steer(states: Tensor, targets: Tensor, gains: Tensor | float = 1.0) -> Tensor:
    """Head for targets: [N, 2] of states [N, 4]; a lower gain [N, 1] is slower."""
    wanted = GAIN * (targets - states[:, :2]) - DAMPING * states[:, 2:]
    return gains * wanted.clamp(-1, 1)


@dataclass(frozen=True)
class DataSettings:
    """Size and quality of the data to make."""

    trajectories: int = 400
    """Episodes, each of a behaviour of its own: a place that it heads for, drawn from the square, and a gain."""
    pairs: int = 4000
    """Pairs of segments that are compared; ties are left out, so that fewer may be labelled."""
    segment: int = 20
    """Steps of a segment; the one with the higher sum of rewards is preferred."""
    noise: float = 0.2
    """Standard deviation of what is added to each action."""
    weakest: float = 0.3
    """Lowest gain; the highest is 1."""

    def __post_init__(self) -> None:
        for name in ("trajectories", "pairs", "segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.segment > PointMass.num_steps:
            raise ValueError(f"segment is {self.segment}, but an episode has {PointMass.num_steps} steps")
        if self.noise < 0 or not 0 < self.weakest <= 1:
            raise ValueError(f"noise is {self.noise} and weakest {self.weakest}; expected 0 or more, and (0, 1]")


def make_data(settings: DataSettings, seed: int) -> PreferenceData:
    """Play behaviours of mixed quality, and label pairs of their segments by a scripted preference.

    Each segment is a random stretch of a random trajectory, and the one with the higher sum of rewards is chosen, as in
    OPPO's scripted experiments (2305.16217). Equal sums are ties and left out. Rewards are not in the data.

    Args:
        settings: sizes and quality.
        seed: equal seeds give equal data.
    """
    draw = torch.Generator().manual_seed(seed)
    environment, count = PointMass(), settings.trajectories
    targets = torch.rand(count, 2, generator=draw) * 2 - 1
    gains = settings.weakest + (1 - settings.weakest) * torch.rand(count, 1, generator=draw)

    def behave(states: Tensor, actions: Tensor, steps: Tensor) -> Tensor:
        noise = settings.noise * torch.randn(count, environment.action_size, generator=draw)
        return steer(states[:, -1], targets, gains) + noise

    states, actions, rewards = play(environment, behave, count, draw)
    sums = rewards.unfold(1, settings.segment, 1).sum(-1)  # [N, starts]
    trajectories = torch.randint(count, (2, settings.pairs), generator=draw)
    starts = torch.randint(sums.shape[1], (2, settings.pairs), generator=draw)
    segments = torch.stack([trajectories, starts], -1)
    first, second = sums[trajectories[0], starts[0]], sums[trajectories[1], starts[1]]
    is_first = (first > second)[:, None]
    told = first != second
    return PreferenceData(
        states.numpy(),
        actions.numpy(),
        torch.full((count,), environment.num_steps).numpy(),
        torch.where(is_first, segments[0], segments[1])[told].numpy(),
        torch.where(is_first, segments[1], segments[0])[told].numpy(),
    )
