"""Build the constants that an update learns from, from a rollout, its rewards and log-probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, TokenRewards
from prl.config import KLPenalty
from prl.rollouts.filters.base import RolloutFilter
from prl.types import Experience, Rollout, Scores


def filter_weights(rollout: Rollout, scores: Scores, filters: Sequence[RolloutFilter]) -> Tensor:
    """Multiply the weights that filters give B responses: [B]; 1 without filters.

    Raises:
        ValueError: for weights of another shape, negative weights, or weights that are not finite.
    """
    weights = torch.ones(len(rollout), device=rollout.response_ids.device)
    for each in filters:
        found = each.weights(rollout, scores)
        if found.shape != weights.shape or not bool((found.isfinite() & (found >= 0)).all()):
            raise ValueError(
                f"filters: {type(each).__name__} gives weights that are not {len(rollout)} finite numbers of at least 0"
            )
        weights = weights * found.to(weights)
    return weights


def build_experience(
    rollout: Rollout,
    scores: Scores,
    weights: Tensor,
    *,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor | None,
    microbatches: list[Tensor],
    estimator: AdvantageEstimator,
    kl: KLPenalty,
    kl_coef: float,
) -> Experience:
    """Estimate advantages and returns of a rollout from its rewards and KL.

    Args:
        rollout: B responses; one that does not count has an empty mask.
        scores: rewards of the responses, after shaping.
        weights: [B] weight of each response.
        old_logprobs: [B, T] log-probabilities under the policy that sampled.
        ref_logprobs: [B, T] log-probabilities under the reference.
        values: [B, T] values of the critic; None without a critic.
        microbatches: groups of rows that scoring used.
        estimator: the advantage estimator.
        kl: settings of the KL.
        kl_coef: current weight of the KL.
    """
    rewards = scores.rewards.nan_to_num(0.0, torch.inf, -torch.inf).float()
    signal = TokenRewards(
        rewards,
        scores.token_rewards,
        old_logprobs,
        ref_logprobs,
        rollout.response_mask,
        kl_coef if kl.placement == "reward" else 0.0,
        kl.estimator,
    )
    advantages, returns = estimator(signal, scores, rollout, values)
    return Experience(rollout, old_logprobs, ref_logprobs, values, rewards, weights, advantages, returns, microbatches)
