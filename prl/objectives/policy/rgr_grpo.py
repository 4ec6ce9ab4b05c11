"""RGR-GRPO: an unclipped policy gradient, with a shaped weight in place of the ratio on guided responses."""

from typing import Literal

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class RGRGRPO(PolicyObjective):
    """J = 1/G [sum_{i<G} sum_t rho_t A_i + sum_t f_t A_G], with neither clip nor KL (RGR-GRPO, 2511.12344).

    rho = pi / pi_old is the ratio of a token, and G the response that `SelfRefine` draws from another prompt, which
    `Rollout.guided` names. It was not sampled from pi_old(. | q), so its ratio is no importance weight. In its place
    stands f = p / (d + gamma), with p = pi(token | q). A summary of the paper writes d = pi_old; in the shaping that it
    takes up, that of LUFFY (2504.14945, scripts and code), d = pi, the same p. Which of them the paper's code has is
    not verified. The gradients differ; in multiples of A grad log pi they are

        policy (the default), d = pi:  f (1 - f) = gamma p / (p + gamma)^2,
        old, d = pi_old:               f = p / (p_old + gamma).

    At p = p_old both have the same f. With `policy` a step is largest at p = gamma, where it is 1/4, and falls to
    gamma / (1 + gamma)^2 for tokens that are certain: the unlikely tokens of a refinement teach most, and no weight is
    ever larger, which matters where nothing is clipped. With `old` a step grows with p, so that tokens which were
    likely anyhow teach most, and has no bound but 1 / (p_old + gamma); for gamma near 0 it is the ratio, as if the
    response had been sampled from q. Hence the default. Weights are per token: with `update.aggregation: token_mean` J
    is the sum over tokens, up to a factor that all of them share. Without guided responses it is the unclipped
    surrogate.

    Args:
        gamma: where the shaping bends, a probability. 0.1 is that of LUFFY's scripts; the paper's was not found.
        denominator: policy or old, as above.

    Raises:
        ValueError: for a gamma outside of (0, 1), or another denominator.
    """

    reads_reference = False

    def __init__(self, gamma: float = 0.1, denominator: Literal["policy", "old"] = "policy") -> None:
        if not 0 < gamma < 1:
            raise ValueError(f"RGRGRPO.gamma is {gamma}; expected a number in (0, 1)")
        if denominator not in ("policy", "old"):
            raise ValueError(f"RGRGRPO.denominator is {denominator!r}; expected policy or old")
        self.gamma, self.denominator = gamma, denominator

    def shape(self, logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
        """Compute f of each token of guided responses: [B, T].

        Args:
            logprobs: [B, T] log-probabilities under the policy in training.
            old_logprobs: [B, T] log-probabilities under the policy that sampled, behind the same prompt.
        """
        p = logprobs.exp()
        return p / ((p if self.denominator == "policy" else old_logprobs.exp()) + self.gamma)

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average over tokens, with the ratio as their factor or, where the response is guided, with f."""
        factor, guided = torch.exp(new.logprobs - experience.old_logprobs), experience.rollout.guided
        share = weights.new_zeros(())
        if guided is not None:
            factor = torch.where(guided[:, None], self.shape(new.logprobs, experience.old_logprobs), factor)
            share = weights[guided].sum()
        loss = (-experience.advantages * factor * weights).sum()
        stats = {"policy_loss": loss, "guided_frac": share, **moved(new.logprobs, experience, weights)}
        return LossOutput(loss, stats)
