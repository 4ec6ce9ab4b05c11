"""SmPO: DPO whose strength for a pair grows with how sure its label is."""

import math

from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SmPO(PreferenceObjective):
    """-log sigma(gamma (2 t - 1) beta (rho_w - rho_l)), rho the log-ratio of a response, t its label (2506.02698).

    t is the probability that chosen is better, such as the logistic function of the difference of two rewards (a column
    `margin`, docs/data.md); the paper scales rewards to 0 to 1 first. A pair that says nothing, t = 1/2, teaches
    nothing, where the soft label of `DPO` would pull its margin to 0. With gamma 1 and t = 1 this is `DPO`.

    Second-hand: the paper writes the factor as 2 alpha - gamma with alpha = gamma t, and gamma 10; the authors' code,
    which was read, has the same product. For pictures the paper takes noise from inversion too (`noise.inversion_steps`
    of `DenoisingPreferenceModule`).

    Args:
        beta: how strongly the policy is held to the reference.
        gamma: scale of the factor of a pair, which lies between -gamma and gamma.

    Raises:
        ValueError: for a beta or gamma that is not above 0.
    """

    def __init__(self, beta: float = 0.1, gamma: float = 10.0) -> None:
        check_beta("SmPO", beta)
        if not 0 < gamma < math.inf:
            raise ValueError(f"SmPO.gamma is {gamma}; expected a finite number above 0")
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        return softplus(-self.gamma * (2 * batch.target.to(margin.dtype) - 1) * margin)
