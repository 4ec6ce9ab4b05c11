"""MODPO: DPO on one objective, with the rewards of the others as a margin: the policy serves all of them."""

from typing import Literal

from torch import Tensor

from prl.objectives.logistic import check_beta, soft_logistic
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class MODPO(PreferenceObjective):
    """-log sigma((beta (rho_w - rho_l) - (1 - w) (r_w - r_l)) / w), w = `weight` (2310.03708).

    rho is the log-ratio of a response to the reference, and r its reward by the other objective. The optimum serves
    w times the reward that the pairs show plus 1 - w times r. Several others are one: with weights w_j, r is
    sum_j w_j r_j / (1 - w). A soft label weighs this loss and its mirror image, as in DPO. The implicit reward that is
    logged is beta rho, that of all objectives together; so accuracy is not that of the pairs alone.

    Rewards come from the columns `chosen_margin_reward` and `rejected_margin_reward`, or from `guide`, a frozen policy
    that was trained on the other objective's pairs by DPO: r = beta (log pi_guide - log pi_ref), summed over tokens,
    with the beta of this loss, as in the authors' runs.

    Args:
        weight: w, weight of the objective of the pairs, above 0 up to 1, which is DPO. The authors sweep 0.1 to 0.9.
        beta: how strongly the policy is held to the reference; 0.1 in the authors' runs.
        margin: where the other rewards come from, `columns` or `guide`.

    Raises:
        ValueError: for a beta that is not above 0, a weight outside of 0 to 1, or an unknown source of rewards.
    """

    columns: tuple[str, ...] = ("chosen_margin_reward", "rejected_margin_reward")

    def __init__(self, weight: float = 0.5, beta: float = 0.1, margin: Literal["columns", "guide"] = "columns") -> None:
        check_beta("MODPO", beta)
        if not 0 < weight <= 1:
            raise ValueError(f"MODPO.weight is {weight}; expected a number above 0 and at most 1")
        if margin not in ("columns", "guide"):
            raise ValueError(f"MODPO.margin is {margin!r}; expected columns or guide")
        self.weight, self.beta, self.margin = weight, beta, margin
        if margin == "guide":
            self.columns, self.guides = (), ("guide",)

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        if self.margin == "guide":
            chosen, rejected = (
                self.beta * each.guide_ratios("guide").sum(1) for each in (batch.chosen, batch.rejected)
            )
        else:
            chosen, rejected = (batch.columns[name] for name in self.columns)
        implicit = self.beta * (batch.chosen.log_ratio() - batch.rejected.log_ratio())
        margin = (implicit - (1 - self.weight) * (chosen - rejected)) / self.weight
        return soft_logistic(margin, batch.target)
