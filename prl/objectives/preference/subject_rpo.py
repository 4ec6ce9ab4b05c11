"""RPO for subjects: supervised learning of reference pictures, and their preference over the model's own."""

import math

from torch import Tensor

from prl.objectives.logistic import check_beta, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SubjectRPO(PreferenceObjective):
    """-2 sft_weight log pi(y_w) - log sigma(2 beta (rho_w - rho_l)) with soft labels (2407.12164).

    Chosen is always the reference response: whatever the label says, it is learnt by imitation. The label is the
    probability that a reward prefers it over the policy's own, rejected response; the authors draw labels by it, and
    here it weighs both, which has the same mean. On pictures -2 log pi is the error, so the first term is that of
    ordinary training; another `RPO` (2405.16436) has a similar loss.

    The paper's equations were not read: this is the loss of the authors' code, where their script for Stable Diffusion
    leaves beta out and that for SDXL has it.

    Args:
        beta: how strongly the policy is held to the reference.
        sft_weight: weight of imitation.

    Raises:
        ValueError: for a beta that is not above 0, or a weight below 0.
    """

    def __init__(self, beta: float = 1.0, sft_weight: float = 1.0) -> None:
        check_beta("SubjectRPO", beta)
        if not 0 <= sft_weight < math.inf:
            raise ValueError(f"SubjectRPO.sft_weight is {sft_weight}; expected a finite number of at least 0")
        self.beta, self.sft_weight = beta, sft_weight

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = 2 * self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        return soft_logistic(margin, batch.target) - 2 * self.sft_weight * batch.chosen.logprob()
