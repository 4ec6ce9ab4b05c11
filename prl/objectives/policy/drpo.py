"""DRPO: right answers against wrong ones, the short right ones first, and never against each other."""

import math

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.responses import mean_over_tokens, prompt_weights, same_prompt
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class DRPO(PolicyObjective):
    """Discriminative policy optimisation with a reward for short answers that is decoupled from right and wrong.

    For the right answers P and the wrong ones N of a prompt,

        J = sum_{i in P} w_i s_i - tau log mean_{j in N} exp(s_j / tau), w_i = exp((1 - len_i / len_max) / Lambda) / Z,

    with s the mean log-probability of a token and Z such that the w add up to 1: a long right answer weighs less, and
    is never pushed down. The loss is -J, averaged over prompts, plus [beta (KL - delta)]_+ KL, whose factor gets no
    gradient: a constraint on the step, with KL the mean over tokens of k3 of KL(pi_old || pi) (2510.04474, formulas of
    the authors' code at 405f702). Prompts without right or without wrong answers add 0 to that mean.

    The rewards are those of the run after shaping; advantages are not read. len_max is `sampling.max_new_tokens`, where
    the authors take the longest response of the batch, which would make a loss depend on its batch mates. The KL is
    that of the micro-batch, as in the authors' code that of the batch on all processes.

    Args:
        tau: temperature over wrong answers; small sees the likeliest alone, large their mean.
        length_temperature: Lambda; small wants the shortest right answer alone, large all of them alike.
        kl_coef: beta.
        kl_target: delta, KL of a token in nats that is free.
        threshold: a reward above it is right.

    Raises:
        ValueError: for a temperature that is not above 0, or a negative kl_coef or kl_target.
    """

    min_per_prompt = 2
    reads_reference = False
    reads_advantages = False

    def __init__(
        self,
        tau: float = 10.0,
        length_temperature: float = 0.1,
        kl_coef: float = 1000.0,
        kl_target: float = 1e-4,
        threshold: float = 0.5,
    ) -> None:
        for name, value in {"tau": tau, "length_temperature": length_temperature}.items():
            if not value > 0:
                raise ValueError(f"DRPO.{name} is {value}; expected a number above 0")
        for name, value in {"kl_coef": kl_coef, "kl_target": kl_target}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"DRPO.{name} is {value}; expected a finite number of at least 0")
        self.tau, self.length_temperature = tau, length_temperature
        self.kl_coef, self.kl_target, self.threshold = kl_coef, kl_target, threshold

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over prompts, and hold the step."""
        mask = experience.rollout.response_mask
        scores = mean_over_tokens(new.logprobs, mask)
        right = (experience.rewards > self.threshold) & experience.counted
        wrong = ~right & experience.counted
        alike = same_prompt(experience) | torch.diag(experience.counted)
        whole = (alike & right).any(1) & (alike & wrong).any(1)

        length = mask.sum(1).to(scores.dtype) / experience.rollout.max_new_tokens
        among = _softmax((1 - length) / self.length_temperature, alike & right)
        hardest = torch.where(alike & wrong, scores / self.tau, -math.inf)
        count = (alike & wrong).sum(1).clamp(min=1).to(scores.dtype)
        hardest = hardest.masked_fill(~whole[:, None], 0).logsumexp(1) - count.log()
        numbers, of_prompt = prompt_weights(experience, weights)
        # Each right answer carries its own share of its prompt, so that a prompt is counted once.
        share = torch.where(right & whole, among * of_prompt[numbers], 0)
        gained = (share * (scores - self.tau * hardest)).sum()

        difference = (new.logprobs - experience.old_logprobs).masked_fill(~mask, 0)
        total = weights.sum()
        kl = ((difference.expm1() - difference) * weights).sum() / total.clamp(min=torch.finfo(total.dtype).tiny)
        held = total * (self.kl_coef * (kl - self.kl_target)).clamp(min=0).detach() * kl
        stats = {"policy_loss": held - gained, "kl_penalty": held, **moved(new.logprobs, experience, weights)}
        stats["discriminated"] = (weights.sum(1) * whole).sum()
        return LossOutput(held - gained, stats)


def _softmax(values: Tensor, among: Tensor) -> Tensor:
    """Normalise exp(values) of each row over the rows that `among` names: [B], 0 for a row that is not among its own.

    Args:
        values: [B].
        among: [B, B] bool.
    """
    total = torch.where(among, values, -math.inf).logsumexp(1)
    own = among.diagonal()
    return torch.where(own, values - total, -math.inf).exp()
