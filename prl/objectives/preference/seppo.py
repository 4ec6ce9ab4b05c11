"""SePPO: responses of an earlier self as rejected ones, unless they are worth learning."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta, expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SePPO(PreferenceObjective):
    """-log sigma(beta (rho_w - s rho_l)), s = 1 where rho_w >= 0 and -1 otherwise (2410.05255, equations 7 and 8).

    rho is the log-ratio of a response to the reference, an earlier checkpoint that made the rejected response. Where
    the policy says less of chosen than that checkpoint, the checkpoint's response counts as a second chosen one. s gets
    no gradient, and a policy at the reference has s = 1, which is `DPO`. With a soft label t the loss is t times this
    one and 1 - t times that of the pair turned round. On pictures the paper's beta is half of the one here, because its
    margin is that of errors, which are -2 rho.

    Second-hand: the sign and its place are from reviews of the paper, which quote its equations in words; the authors
    released no training code.

    Args:
        beta: how strongly the policy is held to the reference; the paper's was not found.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    def __init__(self, beta: float = 0.1) -> None:
        check_beta("SePPO", beta)
        self.beta = beta

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        chosen, rejected = batch.chosen.log_ratio(), batch.rejected.log_ratio()
        return expected(batch.target, self._of(chosen, rejected), self._of(rejected, chosen))

    def _of(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        sign = torch.where(chosen.detach() >= 0, 1.0, -1.0).to(chosen.dtype)
        return softplus(-self.beta * (chosen - sign * rejected))
