"""RPO: DPO and supervised learning of the chosen responses, which is pessimism about what the data does not cover."""

import math
from typing import Literal

from torch import Tensor

from prl.objectives.logistic import check_beta, expected, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class RPO(PreferenceObjective):
    """-log sigma(beta (rho_w - rho_l)) - eta beta log pi(y_w), rho the log-ratio to the reference (2405.16436).

    That is the `cumulative` form of the paper's text. The `average` form of its appendix F has eta times the mean
    log-probability of a token in place of the last term, and no beta there; the authors find it better in general. With
    a soft label t the last term is learnt from chosen with t and from rejected with 1 - t, as two pairs would be whose
    weights are t and 1 - t.

    Args:
        beta: how strongly the policy is held to the reference; the authors ran 0.01 and 0.05, and 0.5 for `average`.
        eta: weight of the chosen responses; the authors ran 0.005, and 0.2 for `average`.
        sft_term: `cumulative` or `average`; beta and eta have to follow it.

    Raises:
        ValueError: for a beta that is not above 0, an eta below 0, or an unknown form.
    """

    def __init__(
        self, beta: float = 0.01, eta: float = 0.005, sft_term: Literal["cumulative", "average"] = "cumulative"
    ) -> None:
        check_beta("RPO", beta)
        if not 0 <= eta < math.inf:
            raise ValueError(f"RPO.eta is {eta}; expected a finite number of at least 0")
        if sft_term not in ("cumulative", "average"):
            raise ValueError(f"RPO.sft_term is {sft_term!r}; expected cumulative or average")
        self.beta, self.eta, self.sft_term = beta, eta, sft_term

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        if self.sft_term == "cumulative":
            chosen, rejected = (self.beta * side.logprob() for side in (batch.chosen, batch.rejected))
        else:
            chosen, rejected = batch.chosen.mean_logprob(), batch.rejected.mean_logprob()
        learnt = expected(batch.target, chosen, rejected)
        return soft_logistic(margin, batch.target) - self.eta * learnt
