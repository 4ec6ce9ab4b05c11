"""VPO: DPO, and the value of the policy as a term: pessimism with data of others, optimism with own samples."""

import math

from torch import Tensor

from prl.objectives.logistic import check_beta, expected, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class VPO(PreferenceObjective):
    """-log sigma(beta (rho_w - rho_l)) - alpha beta rho_c, rho the log-ratio to the reference (2405.19320).

    With rewards that are 0 on average over calibration responses y_c, -beta times the mean of rho_c is the optimal
    value. Subtracting alpha beta rho_c is the paper's pessimism for offline data, where y_c is the chosen response:
    RPO's cumulative form up to a constant. Adding it is the optimism for online data, where y_c is a sample of the
    reference, in a text column `calibration`. With a soft label t, y_c is chosen with t and rejected with 1 - t.

    The signs follow from the paper's abstract; which responses calibrate was not read in its text, nor was an alpha.

    Args:
        beta: how strongly the policy is held to the reference.
        alpha: weight of the value; 0 is DPO. The default is of this library.
        optimistic: whether the value is sought, on the further view `calibration`, and not avoided.

    Raises:
        ValueError: for a beta that is not above 0, or an alpha below 0.
    """

    def __init__(self, beta: float = 0.1, alpha: float = 0.1, optimistic: bool = False) -> None:
        check_beta("VPO", beta)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"VPO.alpha is {alpha}; expected a finite number of at least 0")
        self.beta, self.alpha, self.optimistic = beta, alpha, optimistic
        if optimistic:
            self.views = (*self.views, "calibration")

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        chosen, rejected = batch.chosen.log_ratio(), batch.rejected.log_ratio()
        if self.optimistic:
            raised = -batch.views["calibration"].log_ratio()
        else:
            raised = expected(batch.target, chosen, rejected)
        return soft_logistic(self.beta * (chosen - rejected), batch.target) - self.alpha * self.beta * raised
