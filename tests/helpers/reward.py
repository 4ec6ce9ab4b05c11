"""Reward objectives of a user's own file, to be named by class path."""

from typing import Any

import torch
from torch import Tensor

from prl.objectives.logistic import soft_logistic
from prl.objectives.reward import PairBatch, RewardObjective


class Offset(RewardObjective):
    """A margin of the data that the model's is to exceed; it reads margins alone."""

    columns = ("offset",)

    def loss(self, batch: PairBatch) -> Tensor:
        offset = batch.columns["offset"]
        return soft_logistic(batch.chosen_margin() - offset, batch.target.expand(batch.margin.shape)).mean(0)


class Ratings(RewardObjective):
    """Regress two heads on a rating of each response and their logarithms.

    Args:
        second: weight of the second head in the reward.
    """

    columns = ("rating_chosen", "rating_rejected")

    def __init__(self, second: float = 0.5) -> None:
        self.head_weights = (1.0, second)

    def loss(self, batch: PairBatch) -> Tensor:
        sides = zip(batch.head_rewards(), self.columns, strict=True)
        ratings = [(rewards, batch.columns[name]) for rewards, name in sides]
        errors = [(rewards - torch.stack([given, given.log()], 1)).square().sum(1) for rewards, given in ratings]
        return errors[0] + errors[1]


class Warming(RewardObjective):
    """A scale that grows with each batch: an objective with a state, of both orders."""

    needs_both_orders = True

    def __init__(self) -> None:
        self.scale = 0.0

    def loss(self, batch: PairBatch) -> Tensor:
        self.scale += 0.1
        return soft_logistic(self.scale * (batch.margin[0] - batch.margin[1]), batch.target)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]


class OneLoss(RewardObjective):
    """A mean instead of a loss for each pair."""

    def loss(self, batch: PairBatch) -> Tensor:
        return batch.margin.mean()


class Taken(RewardObjective):
    """Declares a column that says which response is better."""

    columns = ("margin",)

    def loss(self, batch: PairBatch) -> Tensor:
        return batch.margin[0]
