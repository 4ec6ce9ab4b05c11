"""Assembles what models said about a rollout into the constants an update learns from."""

from torch import Tensor

from prl import kl
from prl.advantages import gae, length_adaptive_lambda
from prl.config import PPO, Reward
from prl.masking import whiten
from prl.rewards import apply_missing_eos, sequence_scores, token_rewards
from prl.types import Experience, Rollout, Verdict


def anchored_scores(verdict: Verdict, row_of: Tensor, num_rows: int, settings: Reward) -> Tensor:
    """Reward of each response: the mean over its anchors, [B].

    Args:
        verdict: N comparisons of a response (`a`) with one of its anchors (`b`).
        row_of: [N] which response each comparison is about.
        num_rows: B.
        settings: the reward mapping.
    """
    scores = sequence_scores(verdict, settings.mapping, max_log_odds=settings.max_log_odds)
    totals = scores.new_zeros(num_rows).index_add(0, row_of, scores)
    return totals / row_of.bincount(minlength=num_rows)


def assemble(
    rollout: Rollout,
    scores: Tensor,
    *,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    microbatches: list[Tensor],
    kl_coef: float,
    reward: Reward,
    ppo: PPO,
) -> Experience:
    """Token rewards, advantages and returns of a rollout (DESIGN 1.2).

    Args:
        rollout: B responses.
        scores: [B] reward of each against its anchors.
        old_logprobs: [B, T] under the policy that sampled.
        ref_logprobs: [B, T] under the reference.
        values: [B, T] of the critic.
        microbatches: groups of rows that scoring used.
        kl_coef: current weight of the KL.
        reward: settings of the reward.
        ppo: settings of the advantages.
    """
    mask = rollout.response_mask
    value = 1.0 if reward.missing_eos_value is None else reward.missing_eos_value
    scores = apply_missing_eos(scores, rollout.finished, reward.missing_eos, value)
    penalty = kl_coef if reward.kl_placement == "reward" else 0.0
    rewards = token_rewards(scores, kl.token_kl(old_logprobs, ref_logprobs, reward.kl_estimator), mask, penalty)
    alpha = ppo.length_adaptive_alpha
    trace_decay = ppo.gae_lambda if alpha is None else length_adaptive_lambda(mask.sum(1), alpha)
    critic_decay = ppo.gae_lambda if ppo.critic_lambda is None else ppo.critic_lambda
    advantages, returns = gae(
        rewards, values, mask, gamma=ppo.gamma, gae_lambda=trace_decay, critic_lambda=critic_decay
    )
    if ppo.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Experience(rollout, old_logprobs, ref_logprobs, values, scores, rewards, advantages, returns, microbatches)
