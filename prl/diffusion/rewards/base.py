"""Sockets of rewards and judges of pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prl.types import Scores


class ImageReward(nn.Module, ABC):
    """A number for each picture; the arguments of the constructor are the settings. Weights are frozen.

    A reward with a state of its own has `state_dict` and `load_state_dict` as all modules do; a run saves what of it
    learns.
    """

    compares: bool = False
    """Whether the reward of a picture is known only beside the others of its prompt, through `scores`."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the parts that shapers may read; none for a reward of one part."""
        return ()

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N] float32.

        Args:
            images: [N, C, H, W] from -1 to 1.
            prompts: N texts.
        """

    def scores(self, images: Tensor, prompts: Sequence[str], group: Tensor) -> Scores:
        """Score the pictures of an iteration, with what is known beside their rewards.

        Args:
            images: [N, C, H, W] from -1 to 1.
            prompts: N texts.
            group: [N] number of the prompt; pictures of one prompt share it.
        """
        return Scores(self.score(images, prompts).float())

    def learn(self, images: Tensor, prompts: Sequence[str], rewards: Tensor) -> dict[str, float]:
        """Learn from the pictures of an iteration, after their rewards are used; most rewards do not.

        Returns what is to be logged.
        """
        return {}


class ImageJudge(nn.Module, ABC):
    """Compares two pictures for one prompt."""

    @abstractmethod
    def compare(self, first: Tensor, second: Tensor, prompts: Sequence[str]) -> Tensor:
        """Compute the log-odds that the first picture is better: [N]; 0 is a tie.

        Args:
            first: [N, C, H, W] from -1 to 1.
            second: [N, C, H, W].
            prompts: N texts.
        """


class WeightedImageRewards(ImageReward):
    """A weighted sum of rewards, whose parts are logged and can be read by shapers.

    Args:
        rewards: the rewards by name.
        weights: weight of each by name; 1 where a name is missing.

    Raises:
        ValueError: for no reward, or a weight of a name that is no reward.
    """

    def __init__(self, rewards: dict[str, ImageReward], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        if not rewards:
            raise ValueError("WeightedImageRewards.rewards is empty; expected at least one reward")
        if unknown := sorted(weights.keys() - rewards.keys()):
            raise ValueError(
                f"WeightedImageRewards.weights names {unknown[0]!r}; expected some of {', '.join(rewards)}"
            )
        self.rewards = nn.ModuleDict(rewards)
        self.weights = {name: weights.get(name, 1.0) for name in rewards}
        self.compares = any(each.compares for each in rewards.values())

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the rewards."""
        return tuple(self.weights)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Add up the weighted rewards: [N]."""
        rewards: Any = self.rewards
        return self._sum({name: reward.score(images, prompts).float() for name, reward in rewards.items()})

    def scores(self, images: Tensor, prompts: Sequence[str], group: Tensor) -> Scores:
        """Score pictures, and keep the parts."""
        rewards: Any = self.rewards
        parts = {name: reward.scores(images, prompts, group).rewards for name, reward in rewards.items()}
        return Scores(self._sum(parts), components=parts)

    def learn(self, images: Tensor, prompts: Sequence[str], rewards: Tensor) -> dict[str, float]:
        """Have those learn that do."""
        parts: Any = self.rewards
        found = {name: part.learn(images, prompts, rewards) for name, part in parts.items()}
        return {f"{name}/{key}": value for name, told in found.items() for key, value in told.items()}

    def _sum(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(0)
