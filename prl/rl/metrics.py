"""Numbers that an iteration of PPO logs; names and formulas are in docs/metrics.md."""

import torch
from torch import Tensor

from prl.config import KLEstimator
from prl.distributed import global_max, global_sum, world_size
from prl.kl import token_kl
from prl.masking import masked_mean
from prl.rewards.base import RewardSource, source_numbers
from prl.rl.health import SATURATED
from prl.rl.phase_timer import PhaseTimer
from prl.types import Experience, Rollout, Scores
from prl.verdict import Verdict, wins

_NAMES = {"value_loss": "value/loss", "value_clip_frac": "value/clip_frac", "policy_loss": "policy/loss"}


def mean_over_ranks(values: Tensor) -> float:
    """Compute the mean of one number per row over the rows of all ranks."""
    total = global_sum(values.float().sum())
    count = global_sum(torch.tensor(float(values.numel()), device=values.device))
    return float(total / count.clamp(min=1))


def std_over_ranks(values: Tensor) -> float:
    """Compute the standard deviation (population) of one number per row over the rows of all ranks."""
    mean = mean_over_ranks(values)
    return mean_over_ranks((values.float() - mean).square()) ** 0.5


def sequence_kl(experience: Experience) -> float:
    """Average the k1 estimate of KL(policy || reference) per response, in nats, over the responses that count."""
    return mean_over_ranks(_per_response(experience, "k1"))


def _per_response(experience: Experience, estimator: KLEstimator) -> Tensor:
    """Sum an estimate of KL(policy || reference) over each response that counts."""
    kl = token_kl(experience.old_logprobs, experience.ref_logprobs, estimator)
    return kl.masked_fill(~experience.rollout.response_mask, 0).sum(1)[experience.counted]


def iteration_metrics(
    scores: Scores,
    rollout: Rollout,
    experience: Experience,
    stats: dict[str, float],
    *,
    reward: RewardSource,
    kl_coef: float,
    meter: PhaseTimer,
    iteration: int,
) -> dict[str, float]:
    """Reduce an iteration to numbers over all ranks; every rank must call it.

    Args:
        scores: scores of the reward source, before shaping.
        rollout: the sampled responses, those without a reward included.
        experience: experience of the update.
        stats: statistics of the update, by their names in the objective; those of anchor sources, by whole tags.
        reward: the reward source.
        kl_coef: weight of the KL in this iteration.
        meter: seconds and memory of the phases.
        iteration: number of the iteration, from 1.
    """
    mask = experience.rollout.response_mask
    lengths, num_rows = rollout.response_mask.sum(1).float(), len(mask) * world_size()
    rewarded, num_counted = ~scores.failed, int(global_sum(experience.counted.sum()))
    numbers = {
        "reward/score": mean_over_ranks(experience.rewards[rewarded]),
        "reward/failed_frac": mean_over_ranks(scores.lost),
        "kl/k1": sequence_kl(experience),
        "kl/k3": mean_over_ranks(_per_response(experience, "k3")),
        "kl/coef": kl_coef,
        "policy/entropy_sampled": -float(masked_mean(experience.old_logprobs, mask)),
        "completions/mean_length": mean_over_ranks(lengths),
        "completions/min_length": -float(global_max(-lengths.min())),
        "completions/max_length": float(global_max(lengths.max())),
        "completions/clipped_ratio": mean_over_ranks(~rollout.finished),
        "completions/empty_ratio": mean_over_ranks(torch.tensor([not text.strip() for text in rollout.texts])),
        "reward/judge_cut_rate": reward.truncated_fraction(),
        "perf/judge_saved_tokens": reward.cached_token_fraction(),
        "progress/episodes": float(iteration * num_rows),
    }
    if num_counted > 1:  # one response has no standard deviation, and health must not report it as equal rewards
        numbers["reward/score_std"] = std_over_ranks(experience.rewards[rewarded])
        numbers["kl/k1_stderr"] = std_over_ranks(_per_response(experience, "k1")) / num_counted**0.5
    if experience.values is not None and experience.returns is not None:
        numbers["value/mean"] = float(masked_mean(experience.values, mask))
        numbers["value/return_mean"] = float(masked_mean(experience.returns, mask))
    numbers |= {_NAMES.get(name, name if "/" in name else f"policy/{name}"): v for name, v in stats.items()}
    return numbers | source_numbers(reward) | _of_sources(scores) | _costs(meter, float(rollout.response_mask.sum()))


def _of_sources(scores: Scores) -> dict[str, float]:
    """Compute the numbers of comparisons, if there are any, and of each source of a weighted sum."""
    numbers = {}
    if scores.verdict is not None:
        verdict = scores.verdict.select(scores.verdict.judged)
        numbers = {
            "reward/win_prob": mean_over_ranks(verdict.win_prob),
            "reward/win_rate": mean_over_ranks(wins(verdict.win_logit)),
            "reward/tie_rate": mean_over_ranks(verdict.win_logit == 0),
            "reward/saturated_frac": mean_over_ranks((verdict.win_prob - 0.5).abs() > SATURATED[1] - 0.5),
            "reward/logodds_mean": mean_over_ranks(verdict.win_logit),
            "reward/logodds_std": std_over_ranks(verdict.win_logit),
            **_of_orders(verdict),
        }
    for name, values in scores.components.items():
        known = values[~values.isnan()]
        numbers[f"rewards/{name}/mean"] = mean_over_ranks(known)
        numbers[f"rewards/{name}/std"] = std_over_ranks(known)
    return numbers


def _of_orders(verdict: Verdict) -> dict[str, float]:
    """Compare the two orders of judged comparisons, where both were read; every rank must call it."""
    both = verdict.select(verdict.both_orders)
    numbers = {}
    if verdict.one_order_logit is not None:
        # Equal responses are one reading in both orders, and their margins agree to the bit.
        differ = verdict.margin_ab != verdict.margin_ba
        numbers["judge/second_order_share"] = mean_over_ranks(verdict.both_orders[differ])
        if not global_sum(verdict.both_orders.sum()):
            return numbers
    return numbers | {
        "reward/order_gap": mean_over_ranks(both.order_gap),
        # A response equal to its anchor is a tie: each order then says its place, which is no change of the winner.
        "reward/flip_rate": mean_over_ranks(both.flipped & (both.win_logit != 0)),
    }


def _costs(meter: PhaseTimer, tokens: float) -> dict[str, float]:
    costs = {f"time/{name}_s": value for name, value in meter.seconds.items()}
    costs |= {f"mem/peak_gib/{name}": value for name, value in meter.peak_gib.items()}
    costs["perf/tok_s"] = tokens * world_size() / max(sum(meter.seconds.values()), 1e-9)
    return costs
