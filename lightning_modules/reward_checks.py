"""Checks of a judge's or reward model's training before anything is read: what its objective declares."""

import math
from typing import Any

import numpy as np

from lightning_modules.preference_checks import check_columns
from prl.config import ModelSource
from prl.data import DataSource
from prl.data.columns import COLUMN
from prl.objectives.reward import RewardObjective


def check_judge_needs(objective: RewardObjective, order: str, thoughts: int = 0) -> None:
    """Refuse an objective that a generative judge cannot serve.

    Args:
        objective: of the run.
        order: both, where both orders of each pair are read.
        thoughts: number of thoughts that are sampled behind each reading.

    Raises:
        ValueError: naming the objective, what it needs, and the fix.
    """
    name = type(objective).__name__
    if objective.operator is not None:
        raise ValueError(
            f"objective: {name} compares embeddings of single responses (operator), which a generative judge does not "
            "give; train a scalar model by BradleyTerryRewardModule, or choose an objective of margins"
        )
    if objective.head_weights:
        raise ValueError(
            f"objective: {name} reads rewards of single responses (head_weights), which a generative judge does not "
            "give; train a scalar model by BradleyTerryRewardModule, or choose an objective of margins"
        )
    for need in ("dropout_passes", "look_ahead"):
        if getattr(objective, need):
            raise ValueError(
                f"objective: {name} names {need}, which only a scalar reward model serves; train one by "
                "BradleyTerryRewardModule, or choose an objective of margins"
            )
    if objective.needs_traces:
        raise ValueError(
            f"objective: {name} reads traces behind single responses (needs_traces), which a generative judge does not "
            "read; train a scalar model by BradleyTerryRewardModule, or choose an objective of margins"
        )
    if objective.needs_thoughts > thoughts:
        raise ValueError(
            f"objective: {name} reads {objective.needs_thoughts} thoughts of each reading at least, and "
            + (f"thoughts is {thoughts}; raise it" if thoughts else "none are sampled; use ReasoningRewardModule")
        )
    if objective.needs_both_orders and order != "both":
        raise ValueError(f"objective: {name} reads both orders of a pair, and order is {order}; it needs order: both")
    if objective.optional_columns:
        raise ValueError(
            f"objective: {name} reads {objective.optional_columns[0]!r} where a row has it (optional_columns), which "
            "only BradleyTerryRewardModule does; declare it in columns"
        )
    check_columns(name, objective.columns)


def check_scalar_needs(objective: RewardObjective) -> None:
    """Refuse an objective that a scalar reward model cannot serve.

    Raises:
        ValueError: naming the objective, what it needs, and the fix.
    """
    name = type(objective).__name__
    needs = {
        "logits of a verdict (needs_logits)": objective.needs_logits,
        "thoughts before a verdict (needs_thoughts)": objective.needs_thoughts > 0,
        "both orders of a pair (needs_both_orders)": objective.needs_both_orders,
    }
    for what in [what for what, is_needed in needs.items() if is_needed]:
        raise ValueError(
            f"objective: {name} reads {what}, which a scalar reward model does not give; train a judge by "
            "GenerativeRewardModule, or choose an objective of margins or rewards"
        )
    if objective.operator is not None and objective.head_weights:
        raise ValueError(
            f"objective: {name} names both an operator and head_weights; a model gives embeddings or rewards, so leave "
            "one of them out"
        )
    if objective.needs_traces and (
        objective.operator is not None or objective.head_weights or objective.optional_columns
    ):
        raise ValueError(
            f"objective: {name} reads traces, behind which there is one score; leave operator, head_weights and "
            "optional_columns out"
        )
    if wrong := [weight for weight in objective.head_weights if not math.isfinite(weight)]:
        raise ValueError(f"objective: {name} has a head of weight {wrong[0]}; expected finite numbers in head_weights")
    if (names := objective.head_names) and (len(names), len(names)) != (len(objective.head_weights), len(set(names))):
        raise ValueError(
            f"objective: {name} names its heads {list(names)}; expected a name of its own for each of "
            f"{len(objective.head_weights)} in head_weights"
        )
    check_columns(name, [*objective.columns, *objective.optional_columns])


def check_passes(objective: RewardObjective, model: ModelSource, unlabelled: DataSource | None) -> None:
    """Refuse further passes that would be wrong, a look ahead without responses, and responses that nobody reads.

    Args:
        objective: of the run.
        model: source of the model.
        unlabelled: responses for a look ahead.

    Raises:
        ValueError: naming the objective and the setting.
    """
    name = type(objective).__name__
    if objective.dropout_passes and model.gradient_checkpointing:
        raise ValueError(
            f"objective: {name} reads passes with dropout, and model.gradient_checkpointing computes activations again "
            "without it, so gradients would be wrong; set it to false"
        )
    if objective.look_ahead and unlabelled is None:
        raise ValueError(
            f"objective: {name} looks ahead along unlabelled responses; set model.init_args.unlabelled.path to a file "
            "of prompts with their responses, as `prl pairs --rule BestOfN --lists` writes it"
        )
    if unlabelled is not None and not objective.look_ahead:
        raise ValueError(f"unlabelled is set, and {name} does not look ahead, so nothing reads it; leave it out")


def check_optional(objective: RewardObjective, rows: Any) -> None:
    """Refuse an optional column that no training row has.

    Args:
        objective: of the run.
        rows: `datasets.Dataset` of the encoded training rows.

    Raises:
        ValueError: naming the column, and those that are there.
    """
    numbers = rows.with_format("numpy")
    empty = {name: bool(np.isnan(numbers[COLUMN + name]).all()) for name in objective.optional_columns}
    if any(empty.values()):
        missing, *_ = (name for name, is_empty in empty.items() if is_empty)
        there = ", ".join(name for name, is_empty in empty.items() if not is_empty)
        raise ValueError(
            f"data.train has no number in the column {missing!r} of any row, which {type(objective).__name__} reads "
            f"(it found {there}); correct the name, map it with `columns`, or leave the attribute out"
        )
