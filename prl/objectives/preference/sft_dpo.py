"""SFT-DPO: DPO and supervised learning of the chosen responses, against the fall of both."""

import math

from torch import Tensor

from prl.objectives.logistic import check_beta, expected, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SFTDPO(PreferenceObjective):
    """-log sigma(beta (rho_w - rho_l)) - sft_weight m_w, m the mean log-probability of a token (2406.07327, 3.3).

    rho is the log-ratio of a response to the reference. With a soft label t the last term is learnt from chosen with t
    and from rejected with 1 - t, as two pairs would be whose weights are t and 1 - t.

    The paper's text was not read: whether its likelihood is a mean over tokens or a sum stays uncertain, and so does
    its weight. A mean is taken, which does not grow with the length; `RPO` has a sum.

    Args:
        beta: how strongly the policy is held to the reference.
        sft_weight: weight of the chosen responses; the default is that of `RPO` with the same term.

    Raises:
        ValueError: for a beta that is not above 0, or a weight below 0.
    """

    def __init__(self, beta: float = 0.1, sft_weight: float = 0.2) -> None:
        check_beta("SFTDPO", beta)
        if not 0 <= sft_weight < math.inf:
            raise ValueError(f"SFTDPO.sft_weight is {sft_weight}; expected a finite number of at least 0")
        self.beta, self.sft_weight = beta, sft_weight

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        learnt = expected(batch.target, batch.chosen.mean_logprob(), batch.rejected.mean_logprob())
        return soft_logistic(margin, batch.target) - self.sft_weight * learnt
