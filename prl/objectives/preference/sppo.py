"""SPPO: the log-ratio of each response is drawn to its win rate against the policy; the squared error of both."""

from typing import Literal

from torch import Tensor

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class SPPO(PreferenceObjective):
    """1/2 [(rho_w - (P_w - 1/2) / beta)^2 + (rho_l - (P_l - 1/2) / beta)^2], `sppo` of the authors (2405.00675).

    rho is the log-ratio of a response to the reference, which is to be the policy that the round began with, and P the
    probability that the response beats one of that policy; beta is 1 / eta in the paper. P of each response stands in
    the columns `chosen_win_rate` and `rejected_win_rate`. They say all that there is to say of both responses, so the
    label of the pair (`preference`) is not read. The authors estimate them from K = 5 samples: the mean of
    sigma(s_i - s_j) over all K, the response itself included, with the scores s of a preference model; and they train
    on the best and the worst sample.

    Losses are large by design, 62500 per response for a beta of 0.001 and a P of 0 or 1: clip gradients.

    Args:
        beta: scale of the targets; the authors' runs have 0.001.
        win_rates: columns, or label: P_w is the label and P_l is 1 minus it, without any columns. That is `sppo_single`
            of the authors, and for sure labels half of `sppo_hard` in other libraries.

    Raises:
        ValueError: for a beta that is not above 0, or an unknown source of win rates.
    """

    columns: tuple[str, ...] = ("chosen_win_rate", "rejected_win_rate")
    probabilities: tuple[str, ...] = columns

    def __init__(self, beta: float = 0.001, win_rates: Literal["columns", "label"] = "columns") -> None:
        check_beta("SPPO", beta)
        if win_rates not in ("columns", "label"):
            raise ValueError(f"SPPO.win_rates is {win_rates!r}; expected columns or label")
        self.beta, self.win_rates = beta, win_rates
        if win_rates == "label":
            self.columns = self.probabilities = ()

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        rates = [batch.columns[name] for name in self.columns] or [batch.target, 1 - batch.target]
        chosen, rejected = (
            side.log_ratio() - (rate.to(side.logprobs.dtype) - 0.5) / self.beta
            for side, rate in zip((batch.chosen, batch.rejected), rates, strict=True)
        )
        return (chosen.square() + rejected.square()) / 2
