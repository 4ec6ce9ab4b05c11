"""SimPO: the reward is the mean log-probability of a token, which is what decoding ranks by; no reference."""

import math

from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta, expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SimPO(PreferenceObjective):
    """-log sigma(beta (m_w - m_l) - gamma), m the mean log-probability of a token (2405.14734, equation 6).

    A soft label t takes t of this loss and 1 - t of the loss with the responses swapped, so that a tie pulls both to
    the same reward. That is not the label smoothing of the authors' code, which keeps gamma on the side of chosen.

    Args:
        beta: scale of the rewards; the authors' code has 2, their recipes 2 to 10.
        gamma: margin by which the reward of chosen should lead. Recipes name gamma / beta; the authors' code has 0.25
            of it, which is 0.5 here.

    Raises:
        ValueError: for a beta that is not above 0, or a gamma below 0.
    """

    needs_reference = False

    def __init__(self, beta: float = 2.0, gamma: float = 0.5) -> None:
        check_beta("SimPO", beta)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"SimPO.gamma is {gamma}; expected a finite number of at least 0")
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        lead = self.beta * (batch.chosen.mean_logprob() - batch.rejected.mean_logprob())
        return expected(batch.target, softplus(self.gamma - lead), softplus(self.gamma + lead))
