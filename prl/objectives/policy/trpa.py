"""TRPA: preference pairs between levels of reward, within the responses of a prompt, and a trust region."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.responses import mean_over_tokens, prompt_weights, same_prompt
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class TRPA(PolicyObjective):
    """Trust region preference approximation: any two responses of different reward are a preference pair.

    With l_i the mean over the tokens of a response of log pi - log pi_ref, the loss of a prompt is the mean of
    -log sigma(beta_ij (l_i - l_j)) over all pairs with r_i > r_j, where beta_ij is a beta for a right response i, and
    beta otherwise. Added is c times the mean over tokens of k3 of KL(pi || pi_old). A prompt whose rewards are all
    equal adds the mean of -log sigma(l_i) where its responses are right, of -log sigma(-l_i) where they are not
    (2504.04524, formulas of the authors' code at f372585).

    The rewards are those of the run after shaping, and each different one is a level; advantages are not read. The
    authors average over the pairs of a whole micro-batch, and look at prompts of one level only where it has no other;
    here prompts weigh alike, so that a loss does not depend on its batch mates.

    Args:
        beta: scale of a pair's margin.
        anisotropy: a, by which pairs with a right response count more.
        kl_coef: c, of the trust region.
        best: a reward of at least this is right, the first level.

    Raises:
        ValueError: for a beta or anisotropy that is not above 0, or a negative kl_coef.
    """

    min_per_prompt = 2
    reads_advantages = False

    def __init__(self, beta: float = 0.1, anisotropy: float = 2.5, kl_coef: float = 0.001, best: float = 1.0) -> None:
        for name, value in {"beta": beta, "anisotropy": anisotropy}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"TRPA.{name} is {value}; expected a finite number above 0")
        if not 0 <= kl_coef < math.inf:
            raise ValueError(f"TRPA.kl_coef is {kl_coef}; expected a finite number of at least 0")
        self.beta, self.anisotropy, self.kl_coef, self.best = beta, anisotropy, kl_coef, best

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over the pairs of each prompt, then over prompts."""
        rewards, right, mask = experience.rewards, experience.rewards >= self.best, experience.rollout.response_mask
        ratios = mean_over_tokens(new.logprobs - experience.ref_logprobs, mask)
        pairs = same_prompt(experience) & (rewards[:, None] > rewards)
        scale = self.beta * torch.where(right, self.anisotropy, 1.0)[:, None]
        of_pairs = softplus(-scale * (ratios[:, None] - ratios)).masked_fill(~pairs, 0).sum(1)
        alone = softplus(torch.where(right, -ratios, ratios)).masked_fill(~experience.counted, 0)

        numbers, of_prompt = prompt_weights(experience, weights)

        def sums(values: Tensor) -> Tensor:
            return of_prompt.new_zeros(len(of_prompt)).index_add(0, numbers, values.to(of_prompt.dtype))

        count, rows = sums(pairs.sum(1)), sums(experience.counted)
        losses = torch.where(count > 0, sums(of_pairs) / count.clamp(min=1), sums(alone) / rows.clamp(min=1))
        preference = (losses * of_prompt).sum()
        difference = (new.logprobs - experience.old_logprobs).masked_fill(~mask, 0)
        held = self.kl_coef * (((-difference).expm1() + difference) * weights).sum()
        stats = {"policy_loss": preference + held, "kl_penalty": held, **moved(new.logprobs, experience, weights)}
        stats["paired"] = (of_prompt * (count > 0)).sum()
        return LossOutput(preference + held, stats)
