"""Rewards that an environment gave while the policy talked with it."""

import math

import torch

from prl.environments.base import PLAYED, Played
from prl.rewards.base import RewardSource
from prl.types import Rollout, Scores


class EnvironmentReward(RewardSource):
    """Reward each response by what the environment of `prl.rollouts.Conversation` gave for its turns.

    With dense rewards each turn's reward is on the turn's last token, that of the last answered turn in the reward of
    the response, which shapers change and which stands on its last token. Otherwise the reward of the response is the
    sum over turns. Both have the same sum. `rewards/return/mean` and `rewards/success/mean` are logged, and in
    validations `val/return` and `val/success`, since there is no anchor to compare with.

    Args:
        dense: give each turn its own reward in place of the sum at the end.
    """

    needs_anchors = False
    needs_environment = True
    compares = False

    def __init__(self, dense: bool = True) -> None:
        super().__init__()
        self.dense = self.rewards_tokens = dense

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response. Raises ValueError where no environment has answered."""
        device = rollout.response_ids.device
        token_rewards, totals, rewards = torch.zeros(rollout.response_ids.shape), *torch.zeros(2, len(rollout))
        played = [_played(row) for row in rollout.batch.extras or [{}] * len(rollout)]
        for row, each in enumerate(played):
            totals[row] = rewards[row] = math.fsum(each.rewards) if all(map(math.isfinite, each.rewards)) else math.nan
            if self.dense and not totals[row].isnan():
                token_rewards[row, list(each.ends[:-1])] = torch.tensor(each.rewards[:-1])
                rewards[row] = each.rewards[-1] if each.rewards else 0.0
        success = torch.tensor([float(each.success) for each in played])
        components = {"return": totals.to(device), "success": success.to(device)}
        dense = token_rewards.to(device) if self.dense else None
        return Scores(rewards.to(device), components=components, token_rewards=dense)


def _played(row: dict[str, object]) -> Played:
    found = row.get(PLAYED)
    if not isinstance(found, Played):
        raise ValueError(
            "EnvironmentReward takes the rewards of an environment, and none has answered; set sampler to "
            "prl.rollouts.Conversation"
        )
    return found
