"""Triple preference optimisation: a preference without a reference, and likelihood of a third, gold response."""

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta, expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class TriplePO(PreferenceObjective):
    """-log sigma(beta (s_w - s_l) - gamma) - alpha m_gold, TPO and TPO-L (2405.16681); no reference.

    s is the log-probability of a response in `TPO`, and the mean log-probability of a token in `TPO-L`. m_gold is that
    mean of the gold response, a text column `gold` of the rows (`reference` in the authors' code and in TRL): of each
    response, and then over pairs, where TRL takes one over all gold tokens of a batch. A soft label t takes t of the
    first term and 1 - t of it with chosen and rejected swapped; gold stays gold.

    Args:
        beta: scale of the rewards: 0.01 in the authors' script, 0.1 in their code.
        alpha: weight of gold; 0 reads no gold response, and needs no such column. 1 in the script, 0.05 in the code.
        form: `TPO` or `TPO-L`.
        gamma: margin by which the reward of chosen should lead: none in TPO; for TPO-L 0.5 in the authors' code, 5.4 in
            their script.

    Raises:
        ValueError: for a beta that is not above 0, an alpha or gamma below 0, or an unknown form.
    """

    needs_reference = False
    views: tuple[str, ...] = ("chosen", "rejected", "gold")

    def __init__(
        self, beta: float = 0.01, alpha: float = 1.0, form: Literal["TPO", "TPO-L"] = "TPO", gamma: float = 0.0
    ) -> None:
        check_beta("TriplePO", beta)
        for name, value in {"alpha": alpha, "gamma": gamma}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"TriplePO.{name} is {value}; expected a finite number of at least 0")
        if form not in ("TPO", "TPO-L"):
            raise ValueError(f"TriplePO.form is {form!r}; expected TPO or TPO-L")
        self.beta, self.alpha, self.form, self.gamma = beta, alpha, form, gamma
        if alpha == 0:
            self.views = ("chosen", "rejected")

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        lead = self.reward(batch.chosen) - self.reward(batch.rejected)
        loss = expected(batch.target, softplus(self.gamma - lead), softplus(self.gamma + lead))
        return loss if self.alpha == 0 else loss - self.alpha * batch.views["gold"].mean_logprob()

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of each response, beta s: [N]."""
        return self.beta * (responses.logprob() if self.form == "TPO" else responses.mean_logprob())
