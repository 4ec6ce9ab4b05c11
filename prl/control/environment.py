"""Socket of environments, and the return of a policy in one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

Policy = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Past of episodes -> the next actions [N, A]: states [N, T, S] up to now, actions [N, T, A], the last of which is zero
still, and the number of each step [N, T]."""


class Environment(ABC):
    """A task with known dynamics, played by many episodes at once. Actions lie in [-1, 1]."""

    state_size: ClassVar[int]
    action_size: ClassVar[int]
    num_steps: ClassVar[int]
    """Steps of an episode."""

    @abstractmethod
    def start(self, episodes: int, generator: torch.Generator) -> Tensor:
        """Draw first states [N, S]."""

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Move from states [N, S] by actions [N, A]: the next states [N, S], and rewards [N]."""

    @abstractmethod
    def expert(self, states: Tensor) -> Tensor:
        """Act well in states [N, S]: actions [N, A], the upper end of normalised returns."""


@torch.no_grad()
def play(
    environment: Environment, policy: Policy, episodes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Play whole episodes.

    Returns:
        States before each step [N, T, S], actions [N, T, A], and rewards [N, T].
    """
    now = environment.start(episodes, generator)
    states = torch.zeros(episodes, environment.num_steps, environment.state_size)
    actions = torch.zeros(episodes, environment.num_steps, environment.action_size)
    rewards = torch.zeros(episodes, environment.num_steps)
    numbers = torch.arange(environment.num_steps).expand(episodes, -1)
    for step in range(environment.num_steps):
        states[:, step] = now
        past = slice(0, step + 1)
        actions[:, step] = policy(states[:, past], actions[:, past], numbers[:, past]).clamp(-1, 1)
        now, rewards[:, step] = environment.step(now, actions[:, step])
    return states, actions, rewards


def returns(environment: Environment, policy: Policy, episodes: int, seed: int) -> Tensor:
    """Play episodes and sum their rewards: [N]. Equal seeds begin in equal states, whatever the policy."""
    return play(environment, policy, episodes, torch.Generator().manual_seed(seed))[2].sum(1)


def expert_policy(environment: Environment) -> Policy:
    """Act as the environment's expert."""
    return lambda states, actions, steps: environment.expert(states[:, -1])


def random_policy(environment: Environment, seed: int) -> Policy:
    """Act uniformly at random."""
    generator = torch.Generator().manual_seed(seed)
    return lambda states, actions, steps: torch.rand(len(states), environment.action_size, generator=generator) * 2 - 1


def normalized(environment: Environment, found: Tensor, seed: int) -> float:
    """Put the mean of returns [N] on a scale where the random policy has 0 and the expert 100, as D4RL does.

    Args:
        environment: the task.
        found: returns of episodes with this seed.
        seed: seed of the episodes; both ends of the scale are played from the same first states.
    """
    low = float(returns(environment, random_policy(environment, seed), len(found), seed).mean())
    high = float(returns(environment, expert_policy(environment), len(found), seed).mean())
    return 100 * (float(found.mean()) - low) / (high - low)
