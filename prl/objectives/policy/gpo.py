"""GPO: the log-ratio of each response is drawn to how much it is preferred."""

import math

from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.responses import of_response, sum_over_tokens
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class GPO(PolicyObjective):
    """(log pi(y) / pi_t(y) - A(y) / beta)^2 on whole responses: general preference optimisation (2410.02197).

    pi_t is the policy that sampled, and A the advantage of the response: how much it is preferred, on average, to
    other samples of the policy, so that the mean of A over them is 0 and no partition function is left. With scores of
    a general preference model this is GPO; with A = P - 1/2 it is the loss of SPPO (2405.00675) online. It draws the
    policy to pi_t exp(A / beta) / Z.

    `GroupNormalized(deviation: none)` gives A. Not verified in the paper's text: that log Z is 0, and that its best and
    worst of five samples alone are trained, which here is a rollout filter's part.

    Args:
        beta: how strongly the policy is held to the one that sampled. The authors' 0.001 is made for responses of
            hundreds of tokens.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    reads_reference = False

    def __init__(self, beta: float = 0.001) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"GPO.beta is {beta}; expected a finite number above 0")
        self.beta = beta

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average the squares over responses."""
        mask = experience.rollout.response_mask
        advantages = of_response(experience.advantages, mask)
        log_ratio = sum_over_tokens(new.logprobs - experience.old_logprobs, mask)
        loss = ((log_ratio - advantages / self.beta).square() * weights.sum(1)).sum()
        return LossOutput(loss, {"policy_loss": loss, **moved(new.logprobs, experience, weights)})
