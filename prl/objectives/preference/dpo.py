"""Direct preference optimisation: the optimum of a KL-regularised reward, fitted to pairs without a reward model."""

from torch import Tensor

from prl.objectives.logistic import check_beta, check_smoothing, smooth, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class DPO(PreferenceObjective):
    """-log sigma(beta (rho_w - rho_l)), rho the log-ratio of a response to the reference (2305.18290, equation 7).

    Args:
        beta: how strongly the policy is held to the reference; the paper's experiments have 0.1 to 0.5.
        label_smoothing: share e of the labels that are taken to be wrong: (1 - e) of the loss, and e of that with the
            responses swapped (conservative DPO).

    Raises:
        ValueError: for a beta that is not above 0, or a share outside of 0 to 1/2.
    """

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        check_beta("DPO", beta)
        check_smoothing("DPO", label_smoothing)
        self.beta, self.label_smoothing = beta, label_smoothing

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        return soft_logistic(margin, smooth(batch.target, self.label_smoothing))
