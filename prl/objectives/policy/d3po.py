"""D3PO: DPO on every step of two trajectories, by which of their ends is better."""

import math

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.responses import prompt_weights, same_prompt
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class D3PO(PolicyObjective):
    """-log sigma(beta (l_w - l_l)) at each step, l the clipped log-ratio to the reference (2311.13231, eq. 12 to 14).

    Of two responses to a prompt the one with the higher reward is w; equal rewards teach nothing. The preference for
    the whole is applied to each step by itself, a token of a text or a step of a sampler, so both need as many steps as
    the shorter has. l is log clip(pi / pi_ref, 1 - clip_range, 1 + clip_range), as in the authors' code; their paper
    does not clip. Of more than two responses all pairs count.

    Args:
        beta: how strongly the policy is held to the reference.
        clip_range: how far a ratio may go from 1 before it has no gradient; no clip when null.

    Raises:
        ValueError: for a beta that is not above 0, or a clip_range outside of (0, 1).
    """

    min_per_prompt = 2
    reads_advantages = False

    def __init__(self, beta: float = 0.1, clip_range: float | None = 0.1) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"D3PO.beta is {beta}; expected a finite number above 0")
        if clip_range is not None and not 0 < clip_range < 1:
            raise ValueError(f"D3PO.clip_range is {clip_range}; expected null or a number in (0, 1)")
        self.beta, self.clip_range = beta, clip_range

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over the pairs of each prompt and their steps."""
        ratio = new.logprobs - experience.ref_logprobs
        if self.clip_range is not None:
            ratio = ratio.clamp(math.log1p(-self.clip_range), math.log1p(self.clip_range))
        above = same_prompt(experience) & (experience.rewards[:, None] > experience.rewards)
        better, worse = above.nonzero().unbind(1)
        mask = experience.rollout.response_mask
        shared = mask[better] & mask[worse]
        losses = torch.nn.functional.softplus(-self.beta * (ratio[better] - ratio[worse])).masked_fill(~shared, 0)
        of_pair = losses.sum(1) / shared.sum(1).clamp(min=1)
        numbers, of_prompt = prompt_weights(experience, weights)
        pairs = of_prompt.new_zeros(len(of_prompt)).index_add(0, numbers[better], of_prompt.new_ones(len(better)))
        share = (of_prompt / pairs.clamp(min=1))[numbers[better]]
        loss = (of_pair * share).sum()
        stats = {"policy_loss": loss, **moved(new.logprobs, experience, weights)}
        # Without a pair, all gradients are 0 and none is missing.
        return LossOutput(loss + 0 * (new.logprobs * weights).sum(), stats)
