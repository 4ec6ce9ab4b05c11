"""Assembles what models said about a rollout into the constants an update learns from."""

import torch
from torch import Tensor

from prl.advantages.gae import length_adaptive_lambda, shaped_gae
from prl.config import PPO, Reward
from prl.masking import whiten
from prl.rewards.shaping import apply_missing_eos, overlong
from prl.types import Experience, Rollout


def assemble(
    rollout: Rollout,
    rewards: Tensor,
    *,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    microbatches: list[Tensor],
    kl_coef: float,
    reward: Reward,
    ppo: PPO,
    max_length: int,
) -> Experience:
    """Advantages and returns of a rollout, from its rewards and KL (DESIGN 1.2).

    Args:
        rollout: B responses.
        rewards: [B] reward of each response; a response without one has an empty mask.
        old_logprobs: [B, T] under the policy that sampled.
        ref_logprobs: [B, T] under the reference.
        values: [B, T] of the critic.
        microbatches: groups of rows that scoring used.
        kl_coef: current weight of the KL.
        reward: settings of the reward.
        ppo: settings of the advantages.
        max_length: length limit of a response, tokens.
    """
    mask = rollout.response_mask
    value = 1.0 if reward.missing_eos_value is None else reward.missing_eos_value
    rewards = apply_missing_eos(
        rewards.nan_to_num(0.0, torch.inf, -torch.inf), rollout.finished, reward.missing_eos, value
    )
    rewards = rewards - overlong(mask.sum(1), max_length, reward.overlong_buffer, reward.overlong_penalty)
    alpha = ppo.length_adaptive_alpha
    advantages, returns, moments = shaped_gae(
        *(old_logprobs, ref_logprobs, rewards.float(), values, mask),
        kl_coef=kl_coef if reward.kl_placement == "reward" else 0.0,
        kl_estimator=reward.kl_estimator,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda if alpha is None else length_adaptive_lambda(mask.sum(1), alpha),
        # Lengths change the trace decay of the policy only.
        critic_lambda=ppo.gae_lambda if ppo.critic_lambda is None and alpha is not None else ppo.critic_lambda,
    )
    if ppo.whiten_advantages:
        advantages = whiten(advantages, mask, moments)
    return Experience(rollout, old_logprobs, ref_logprobs, values, rewards, advantages, returns, microbatches)
