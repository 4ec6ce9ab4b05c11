"""TGDPO: DPO whose strength differs from token to token, by what a guide thinks of each."""

import logging
import math

from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta, expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses

log = logging.getLogger(__name__)
WARNING = (
    "TGDPO: some token has a weight 1 + alpha r or 1 - alpha r below 0, so it is learnt the wrong way round; lower "
    "alpha (%g) or beta (%g), or take a guide nearer to the reference"
)


class TGDPO(PreferenceObjective):
    """-log sigma(sum_w beta (1 + alpha r_t) d_t - sum_l beta (1 - alpha r_t) d_t), over tokens t (2506.14574).

    d_t = log pi - log pi_ref is the log-ratio of a token, and r_t = beta (log pi_guide - log pi_ref) its reward by the
    guide: `guide`, a frozen policy that was trained on preferences already, by DPO or SimPO. Chosen learns more from
    the tokens that the guide rewards, rejected less. No gradient reaches the guide; a guide that is the reference gives
    DPO. A soft label t takes t of this loss and 1 - t of the loss with the responses swapped. The implicit reward that
    is logged is beta times the sum of d_t, as in the authors' code, which also has one beta for both.

    Args:
        beta: how strongly the policy is held to the reference, and the scale of r_t. The authors' settings file has
            0.1; a digest of the paper names 0.01.
        alpha: how much the guide decides; 0 is DPO. 0.5 in the file, 0.5, 1 and 2 in the digest. The theory needs
            weights above 0, and a run warns once where one is below.

    Raises:
        ValueError: for a beta that is not above 0, or an alpha below 0.
    """

    guides = ("guide",)

    def __init__(self, beta: float = 0.1, alpha: float = 0.5) -> None:
        check_beta("TGDPO", beta)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"TGDPO.alpha is {alpha}; expected a finite number of at least 0")
        self.beta, self.alpha = beta, alpha
        self._has_warned = False

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        as_labelled = self._margin(batch.chosen, batch.rejected, batch.target > 0)
        swapped = self._margin(batch.rejected, batch.chosen, batch.target < 1)
        return expected(batch.target, softplus(-as_labelled), softplus(-swapped))

    def _margin(self, better: ScoredResponses, worse: ScoredResponses, counts: Tensor) -> Tensor:
        scale = self.alpha * self.beta
        above, below = scale * better.guide_ratios("guide"), -scale * worse.guide_ratios("guide")
        if not self._has_warned and any(bool((each < -1)[counts].any()) for each in (above, below)):
            self._has_warned = True
            log.warning(WARNING, self.alpha, self.beta)
        return self.beta * (better.log_ratio(1 + above) - worse.log_ratio(1 + below))
