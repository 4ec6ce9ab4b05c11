"""Socket of advantage estimators, which turn rewards into advantages."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prl.config import KLEstimator
from prl.kl import token_kl
from prl.types import Rollout, Scores


class Advantages(NamedTuple):
    """Results of an estimator: constants, zero outside the mask."""

    advantages: Tensor
    """[B, T] advantage of each token."""
    returns: Tensor | None
    """[B, T] targets of the critic; None from an estimator that needs no critic."""


@dataclass(frozen=True)
class TokenRewards:
    """Rewards of B responses, and the KL penalty to subtract from them."""

    rewards: Tensor
    """[B] float32 reward of each response, after shaping; 0 for a response without a reward, whose mask is empty."""
    token_rewards: Tensor | None
    """[B, T] dense rewards of single tokens; None without any."""
    logprobs: Tensor
    """[B, T] log-probabilities under the policy that sampled."""
    ref_logprobs: Tensor
    """[B, T] log-probabilities under the reference."""
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
    """Estimates advantages. The arguments of the constructor are the settings.

    An estimator with a state has `state_dict` and `load_state_dict`; the run finds and saves the state.
    """

    needs_critic: ClassVar[bool] = False
    """Whether the estimator reads a critic's values; otherwise no critic is built."""
    min_per_prompt: ClassVar[int] = 1
    """Fewest responses per prompt that the estimator needs."""
    compares_group: ClassVar[bool] = False
    """Whether the estimator needs each response compared with all other responses to its prompt, as anchors."""
    needs_marks: ClassVar[bool] = False
    """Whether the estimator reads `Scores.step_marks`, which few reward sources give."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the prompts with a number in each row, which the estimator reads under its default settings."""

    @abstractmethod
    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Estimate the advantage of each token.

        Args:
            rewards: rewards and KL of B responses.
            scores: scores after shaping, with their comparisons.
            rollout: the responses. Responses to one prompt share a number in `rollout.group`, and all of them are on
                this process. A response that does not count has an empty mask.
            values: [B, T] the critic's value of the state before each token; None without a critic.
        """
