"""Pairwise proximal policy optimisation: a policy gradient on whole responses, compared with each other."""

from typing import Literal

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.clipped import clipped_policy_loss
from prl.objectives.policy.responses import of_response, prompt_weights, same_prompt, sum_over_tokens
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class P3O(PolicyObjective):
    """A clipped policy gradient on differences of rewards, response by response or pair by pair (2310.00212).

    With D_1 = r_1 - r_2 = -D_2 the rewards of two responses to a prompt, less their KL, and rho_i the ratio
    pi(y_i) / pi_old(y_i) of a whole response, the pairwise policy gradient is D_1 / 2 grad log(pi(y_1) / pi(y_2)). Of
    it the loss is

        separate (V1):  -1/2 sum_i min(D_i rho_i, D_i clip(rho_i, 1 - epsilon, 1 + epsilon)),
        joint (V2):     -1/2 min(D_1 l, D_1 clip(l, -epsilon, epsilon)) with l = log(rho_1 / rho_2).

    D is the advantage of `LeaveOneOut` with two responses to a prompt (`sampling.per_prompt`), and in the joint form
    half the difference of both. Of more responses V1 averages over them, V2 over their pairs. A number that is added to
    all rewards of a prompt changes nothing.

    V1 was read in a summary of the paper. The text of V2 was not found: the form here is derived. Its gradient at
    rho = 1 is the pairwise policy gradient, exchanging the two responses changes nothing, and the one clip holds the
    odds of the pair; the weight rho_1 rho_2 of importance sampling, 1 as long as the pair's total does not move, is
    left out. Nor was epsilon found; 0.2 is that of PPO.

    Args:
        clip: separate or joint.
        clip_range: epsilon.

    Raises:
        ValueError: for another form, or a clip_range outside of (0, 1).
    """

    min_per_prompt = 2
    reads_reference = False

    def __init__(self, clip: Literal["separate", "joint"] = "separate", clip_range: float = 0.2) -> None:
        if clip not in ("separate", "joint"):
            raise ValueError(f"P3O.clip is {clip!r}; expected separate or joint")
        if not 0 < clip_range < 1:
            raise ValueError(f"P3O.clip_range is {clip_range}; expected a number in (0, 1)")
        self.clip, self.clip_range = clip, clip_range

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over responses, or over the pairs of each prompt."""
        mask = experience.rollout.response_mask
        advantages = of_response(experience.advantages, mask)
        log_ratio = sum_over_tokens(new.logprobs - experience.old_logprobs, mask)
        if self.clip == "separate":
            still = torch.zeros_like(log_ratio)
            losses = clipped_policy_loss(log_ratio, still, advantages, clip_range=self.clip_range)
            loss = (losses * weights.sum(1)).sum()
            clipped = (log_ratio.exp() - 1).abs() > self.clip_range
        else:
            loss, clipped = self._joint(log_ratio, advantages, experience, weights)
        stats = {"policy_loss": loss, **moved(new.logprobs, experience, weights)}
        stats["clip_frac"] = (clipped * weights.sum(1)).sum()
        return LossOutput(loss, stats)

    def _joint(
        self, log_ratio: Tensor, advantages: Tensor, experience: Experience, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Average over the pairs of each prompt; also tell [B] which responses are in a pair beyond the clip."""
        pairs = same_prompt(experience)
        lead = log_ratio[:, None] - log_ratio
        gain = (advantages[:, None] - advantages) / 2
        held = torch.minimum(gain * lead, gain * lead.clamp(-self.clip_range, self.clip_range)).masked_fill(~pairs, 0)
        numbers, of_prompt = prompt_weights(experience, weights)
        count = of_prompt.new_zeros(len(of_prompt)).index_add(0, numbers, pairs.sum(1).to(of_prompt.dtype))
        share = (of_prompt / count.clamp(min=1))[numbers]  # both orders of a pair are there, and are equal
        loss = -(held.sum(1) * share).sum() / 2
        return loss, (pairs & (lead.abs() > self.clip_range)).any(1)
