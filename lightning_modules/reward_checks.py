"""Checks of a judge's or reward model's training before anything is read: what its objective declares."""

import math

from lightning_modules.preference_checks import check_columns
from prl.objectives.reward import RewardObjective


def check_judge_needs(objective: RewardObjective, order: str) -> None:
    """Refuse an objective that a generative judge cannot serve.

    Args:
        objective: of the run.
        order: both, where both orders of each pair are read.

    Raises:
        ValueError: naming the objective, what it needs, and the fix.
    """
    name = type(objective).__name__
    if objective.head_weights:
        raise ValueError(
            f"objective: {name} reads rewards of single responses (head_weights), which a generative judge does not "
            "give; train a scalar model by BradleyTerryRewardModule, or choose an objective of margins"
        )
    if objective.needs_both_orders and order != "both":
        raise ValueError(f"objective: {name} reads both orders of a pair, and order is {order}; it needs order: both")
    check_columns(name, objective.columns)


def check_scalar_needs(objective: RewardObjective) -> None:
    """Refuse an objective that a scalar reward model cannot serve.

    Raises:
        ValueError: naming the objective, what it needs, and the fix.
    """
    name = type(objective).__name__
    needs = {
        "logits of a verdict (needs_logits)": objective.needs_logits,
        "both orders of a pair (needs_both_orders)": objective.needs_both_orders,
    }
    for what in [what for what, is_needed in needs.items() if is_needed]:
        raise ValueError(
            f"objective: {name} reads {what}, which a scalar reward model does not give; train a judge by "
            "GenerativeRewardModule, or choose an objective of margins or rewards"
        )
    if wrong := [weight for weight in objective.head_weights if not math.isfinite(weight)]:
        raise ValueError(f"objective: {name} has a head of weight {wrong[0]}; expected finite numbers in head_weights")
    check_columns(name, objective.columns)
