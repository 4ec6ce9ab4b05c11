"""PRDP: differences of rewards predicted by differences of log-ratios, within a proximal range."""

import math
from typing import Literal

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.responses import mean_over_tokens, prompt_weights, same_prompt, sum_over_tokens
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class PRDP(PolicyObjective):
    """max(l, l_clip) of l = (R_a - R_b - (r_a - r_b) / beta)² over the pairs of a prompt (2402.08714, eq. 5 to 21).

    R is the sum over steps of log pi / pi_ref of a response, r its reward; l is 0 for all pairs exactly at the optimum
    of reward less beta KL, and what is added to all rewards of a prompt changes nothing. In l_clip the log-ratio of
    each step is held within clip_range of that of the policy that sampled. Pairs count once, whichever of the two is
    better. The authors' listing averages over steps where their equations sum, and their defaults, beta 3e-5 and
    clip_range 1e-6, belong to means over the dimensions of large pictures.

    Args:
        beta: strength of the KL to the reference.
        clip_range: how far the log-ratio of a step may move from that of the policy that sampled.
        over_steps: sum of the log-ratios of a response's steps, as in the equations, or their mean.

    Raises:
        ValueError: for a setting out of its range.
    """

    min_per_prompt = 2
    reads_advantages = False

    def __init__(self, beta: float = 0.1, clip_range: float = 0.01, over_steps: Literal["sum", "mean"] = "sum") -> None:
        for name, value in (("beta", beta), ("clip_range", clip_range)):
            if not 0 < value < math.inf:
                raise ValueError(f"PRDP.{name} is {value}; expected a finite number above 0")
        if over_steps not in ("sum", "mean"):
            raise ValueError(f"PRDP.over_steps is {over_steps!r}; expected sum or mean")
        self.beta, self.clip_range, self.over_steps = beta, clip_range, over_steps

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over the pairs of each prompt."""
        moved_by = new.logprobs - experience.old_logprobs
        before = experience.old_logprobs - experience.ref_logprobs
        pairs = same_prompt(experience).triu()
        free = self._errors(moved_by + before, experience)
        held = self._errors(moved_by.clamp(-self.clip_range, self.clip_range) + before, experience)
        each = torch.maximum(free, held).masked_fill(~pairs, 0)
        numbers, of_prompt = prompt_weights(experience, weights)
        count = of_prompt.new_zeros(len(of_prompt)).index_add(0, numbers, pairs.sum(1).to(of_prompt.dtype))
        share = (of_prompt / count.clamp(min=1))[numbers]
        loss = (each.sum(1) * share).sum()
        clipped = ((held > free) & pairs).sum(1) * share
        stats = {"policy_loss": loss, "clip_frac": clipped.sum(), **moved(new.logprobs, experience, weights)}
        return LossOutput(loss, stats)

    def _errors(self, log_ratios: Tensor, experience: Experience) -> Tensor:
        """Compute the squared error of each pair: [B, B]."""
        over = sum_over_tokens if self.over_steps == "sum" else mean_over_tokens
        total = over(log_ratios, experience.rollout.response_mask) - experience.rewards / self.beta
        return (total[:, None] - total).square()
