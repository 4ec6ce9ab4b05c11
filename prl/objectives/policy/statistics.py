"""Statistics of a micro-batch that all objectives log: the distance from the policy that sampled."""

import torch
from torch import Tensor

from prl.types import Experience


@torch.no_grad()
def moved(logprobs: Tensor, experience: Experience, weights: Tensor) -> dict[str, Tensor]:
    """Measure how far the policy has moved from the sampling policy.

    Args:
        logprobs: [B, T] log-probabilities under the policy.
        experience: B responses.
        weights: [B, T] weight of each token.
    """
    difference = logprobs - experience.old_logprobs
    ratio = difference.exp()
    largest = torch.where(experience.rollout.response_mask, ratio, 1)
    return {
        # k3 of KL(old || new): never negative, exactly zero for unchanged weights.
        "approx_kl": ((difference.expm1() - difference) * weights).sum(),
        "ratio_mean": (ratio * weights).sum(),
        "ratio_max": largest.max() if ratio.numel() else ratio.new_ones(()),
    }
