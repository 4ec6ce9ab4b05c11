"""How rewards become advantages: a choice that is one class in the configuration."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prl.config import KLEstimator
from prl.kl import token_kl
from prl.types import Rollout, Scores


class Advantages(NamedTuple):
    """What an estimator returns: constants, zero outside the mask."""

    advantages: Tensor
    """[B, T] weight of each token's log-probability."""
    returns: Tensor | None
    """[B, T] targets of the critic; None from an estimator that needs none."""


@dataclass(frozen=True)
class TokenRewards:
    """The rewards of B responses and the KL penalty that is taken off them, not yet summed up."""

    rewards: Tensor
    """[B] float32 reward of each response, after shaping; 0 where there is none, whose mask is empty."""
    token_rewards: Tensor | None
    """[B, T] further rewards at single tokens; None without any."""
    logprobs: Tensor
    """[B, T] under the policy that sampled."""
    ref_logprobs: Tensor
    """[B, T] under the reference."""
    mask: Tensor
    """[B, T] True on tokens that count."""
    kl_coef: float
    """Weight of the KL in the reward; 0 where it is in the loss."""
    kl_estimator: KLEstimator

    def per_token(self) -> Tensor:
        """Reward each token: minus its KL, plus the response's reward on its last token that counts: [B, T]."""
        total = torch.zeros_like(self.logprobs) if self.token_rewards is None else self.token_rewards.float()
        if self.kl_coef:
            total = total - self.kl_coef * token_kl(self.logprobs, self.ref_logprobs, self.kl_estimator)
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        last = (self.mask * (places + 1)).argmax(1, keepdim=True)
        at_end = torch.zeros_like(total).scatter(1, last, self.rewards[:, None].to(total.dtype))
        return (total + at_end).masked_fill(~self.mask, 0)

    def per_response(self) -> Tensor:
        """Sum the rewards of each response over its tokens: [B]."""
        total = self.rewards
        if self.token_rewards is not None:
            total = total + self.token_rewards.masked_fill(~self.mask, 0).sum(1)
        if self.kl_coef:
            kl = token_kl(self.logprobs, self.ref_logprobs, self.kl_estimator)
            total = total - self.kl_coef * kl.masked_fill(~self.mask, 0).sum(1)
        return total


class AdvantageEstimator(ABC):
    """Estimates advantages. Its constructor's arguments are its settings.

    An estimator with a state has `state_dict` and `load_state_dict`; the run finds and saves it.
    """

    needs_critic: ClassVar[bool] = False
    """Whether it reads a critic's values; without need, no critic is built."""
    min_per_prompt: ClassVar[int] = 1
    """Responses to one prompt that it compares, at least."""

    @abstractmethod
    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Estimate the advantage of each token.

        Args:
            rewards: of B responses.
            scores: what the reward source said, shaped, with its comparisons.
            rollout: the responses; responses to one prompt have one number in `rollout.group`, and all of them are on
                this process. A response that does not count has an empty mask.
            values: [B, T] the critic's value of the state before each token; None without need of it.
        """
