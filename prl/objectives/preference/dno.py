"""DNO: DPO whose labels are win rates against the policy, in rounds on samples of the policy itself."""

from typing import Literal

from torch import Tensor

from prl.objectives.logistic import check_beta, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class DNO(PreferenceObjective):
    """-q log sigma(beta (rho_w - rho_l)) - (1 - q) log sigma(beta (rho_l - rho_w)) (2404.03715, algorithm 1).

    rho is the log-ratio of a response to the reference, which is to be the policy that the round began with, and
    q = sigma(P_w - P_l) with the probabilities P that a response beats one of that policy, from the columns
    `chosen_win_rate` and `rejected_win_rate`. The label of the pair (`preference`) is not read then. q lies between
    0.27 and 0.73, so beta (rho_w - rho_l) is drawn to P_w - P_l and not beyond. A loss is at least the entropy of q.

    The paper's table of settings has an alpha of 0.005 that its text does not explain. It may weigh a supervised term;
    this loss has no such term.

    Args:
        beta: eta in the paper, how strongly the policy is held to the reference; 0.1 or 0.05 there.
        win_rates: columns, or label: q is the label, without any columns. That is the step of DNO-Prct (algorithm 2),
            which is DPO on pairs of the round that are far apart.

    Raises:
        ValueError: for a beta that is not above 0, or an unknown source of win rates.
    """

    columns: tuple[str, ...] = ("chosen_win_rate", "rejected_win_rate")
    probabilities: tuple[str, ...] = columns

    def __init__(self, beta: float = 0.1, win_rates: Literal["columns", "label"] = "columns") -> None:
        check_beta("DNO", beta)
        if win_rates not in ("columns", "label"):
            raise ValueError(f"DNO.win_rates is {win_rates!r}; expected columns or label")
        self.beta, self.win_rates = beta, win_rates
        if win_rates == "label":
            self.columns = self.probabilities = ()

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        margin = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        if self.win_rates == "label":
            return soft_logistic(margin, batch.target)
        chosen, rejected = (batch.columns[name] for name in self.columns)
        return soft_logistic(margin, (chosen - rejected).sigmoid())
