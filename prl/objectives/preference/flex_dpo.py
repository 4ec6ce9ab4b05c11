"""Flex-DPO: DPO with one beta for chosen and a smaller one for rejected, which slows the fall of rejected responses."""

import math

from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class FlexDPO(PreferenceObjective):
    """-log sigma(beta_plus rho_w - beta_minus rho_l), rho the log-ratio to the reference (2406.07327, section 3.3).

    A soft label t takes t of this loss and 1 - t of the loss with the responses swapped. The implicit reward that is
    logged is beta_plus rho on both sides, since a response does not know its side.

    The paper calls the betas adaptive, yet varies a beta_minus that is constant in a run; so it is here. That reading,
    and the defaults, are taken from reviews of the paper and not from its text.

    Args:
        beta_plus: scale of the log-ratio of chosen.
        beta_minus: scale of that of rejected, from 0 to beta_plus; equal ones are DPO, 0 does not push rejected at all.

    Raises:
        ValueError: for a beta_plus that is not above 0, or a beta_minus outside of 0 to beta_plus.
    """

    def __init__(self, beta_plus: float = 0.1, beta_minus: float = 0.08) -> None:
        if not 0 < beta_plus < math.inf:
            raise ValueError(f"FlexDPO.beta_plus is {beta_plus}; expected a finite number above 0")
        if not 0 <= beta_minus <= beta_plus:
            raise ValueError(f"FlexDPO.beta_minus is {beta_minus}; expected a number from 0 to beta_plus, {beta_plus}")
        self.beta_plus, self.beta_minus = beta_plus, beta_minus

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        chosen, rejected = batch.chosen.log_ratio(), batch.rejected.log_ratio()
        as_labelled = softplus(self.beta_minus * rejected - self.beta_plus * chosen)
        swapped = softplus(self.beta_minus * chosen - self.beta_plus * rejected)
        return expected(batch.target, as_labelled, swapped)

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of each response, beta_plus rho: [N]."""
        return self.beta_plus * responses.log_ratio()
