"""The PPO objective of a micro-batch: the losses summed with their weights, and what to report about them."""

import torch
from torch import Tensor

from prl import kl
from prl.config import PPO, Reward
from prl.objectives.policy.losses import clipped_policy_loss, clipped_value_loss
from prl.types import Experience


def token_weights(mask: Tensor, aggregation: str, total_tokens: Tensor, total_rows: Tensor) -> Tensor:
    """Weight of each token in the loss; they sum to one over the minibatch of all ranks: [B, T].

    token_mean: 1 / tokens. sequence_mean: 1 / (rows * length of the row).

    Args:
        mask: [B, T] bool.
        aggregation: token_mean or sequence_mean.
        total_tokens: tokens of the minibatch on all ranks.
        total_rows: responses of the minibatch on all ranks.
    """
    if aggregation == "token_mean":
        return mask / total_tokens
    return mask / (mask.sum(1, keepdim=True).clamp(min=1) * total_rows)


def ppo_objective(
    experience: Experience,
    new_logprobs: Tensor | None,
    new_values: Tensor,
    entropy: Tensor | None,
    weights: Tensor,
    *,
    kl_coef: float,
    ppo: PPO,
    reward: Reward,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of policy, value, entropy and KL losses, and detached statistics that sum over micro-batches.

    Args:
        experience: rows of this micro-batch.
        new_logprobs: [B, T] with gradient; None while only the critic learns.
        new_values: [B, T] with gradient.
        entropy: [B, T] with gradient; None when it has no weight.
        weights: [B, T] of `token_weights`.
        kl_coef: weight of the KL loss, used when `reward.kl_placement` is loss.
        ppo: settings of the losses.
        reward: settings of the KL.
    """

    def average(per_token: Tensor) -> Tensor:
        return (per_token * weights).sum()

    value_loss = average(
        clipped_value_loss(new_values, experience.values, experience.returns, value_clip_range=ppo.value_clip_range)
    )
    loss = ppo.value_coef * value_loss
    stats = {"value_loss": value_loss}
    if ppo.value_clip_range is not None:
        moved = (new_values - experience.values).abs() > ppo.value_clip_range
        stats["value_clip_frac"] = average(moved.float())
    if new_logprobs is not None:
        policy_loss, policy_stats = _policy_part(experience, new_logprobs, average, ppo)
        loss = loss + policy_loss
        stats |= policy_stats
        if reward.kl_placement == "loss":
            loss = loss + kl_coef * average(kl.token_kl(new_logprobs, experience.ref_logprobs, reward.kl_estimator))
        if entropy is not None:
            stats["entropy"] = average(entropy)
            loss = loss - ppo.entropy_coef * stats["entropy"]
    return loss, {name: value.detach() for name, value in stats.items()}


def _policy_part(experience: Experience, new_logprobs: Tensor, average, ppo: PPO) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[no-untyped-def]
    old, advantages = experience.old_logprobs, experience.advantages
    policy_loss = average(
        clipped_policy_loss(
            new_logprobs,
            old,
            advantages,
            clip_range=ppo.clip_range,
            clip_range_high=ppo.clip_range_high,
            dual_clip=ppo.dual_clip,
        )
    )
    with torch.no_grad():
        difference = new_logprobs - old
        ratio = difference.exp()
        high = ppo.clip_range if ppo.clip_range_high is None else ppo.clip_range_high
        stats = {
            "policy_loss": policy_loss,
            # k3 of KL(old || new): never negative, exactly zero for unchanged weights.
            "approx_kl": average(difference.expm1() - difference),
            "clip_frac_low": average(((ratio < 1 - ppo.clip_range) & (advantages < 0)).float()),
            "clip_frac_high": average(((ratio > 1 + high) & (advantages > 0)).float()),
            "ratio_mean": average(ratio),
            "ratio_max": torch.where(experience.rollout.response_mask, ratio, 1).max()
            if ratio.numel()
            else ratio.new_ones(()),
        }
    return policy_loss, stats
