"""One batch of OPPO (Beyond Reward, 2305.16217): every loss of its pairs, and the sum that both steps learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prl.control.losses import norm_loss, reconstruction_loss, triplet_loss
from prl.control.networks import ConditionedPolicy
from prl.control.windows import SIDES, Window

TOTALS = ("pairs", *(f"{side}_steps" for side in SIDES))
"""Denominators of the means: number of pairs, and of steps of either side."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of encoder and policy's losses, and the margin; defaults are those of OPPO's authors."""

    preference: float = 0.1
    """Weight of the preference loss of the encoder; with 0 it is an auto-encoder of trajectories."""
    norm: float = 0.1
    """Weight of (||z|| - 1)²."""
    margin: float = 1.0
    """By how much preferred latents should be nearer to z* than the others."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"weights.{name} is {value}; expected 0 or more")


def counts(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Count what the means of a batch divide by, row by row: name of TOTALS -> [B]."""
    steps = {f"{side}_steps": batch[f"{side}_mask"].sum(1) for side in SIDES}
    return {"pairs": steps["chosen_steps"].new_ones(len(batch["chosen_mask"])), **steps}


def read_pairs(policy: ConditionedPolicy, batch: Mapping[str, Any], margin: float) -> dict[str, Tensor]:
    """Compute the losses of each pair.

    Args:
        policy: encoder, decoder and z*.
        batch: pairs of windows, as `WindowEncoder.collate` gives them.
        margin: of the preference loss.

    Returns:
        Of each row [B]: `chosen_reconstruction` and `rejected_reconstruction` (sums over steps), `norm` (of both
        sides), `preference` (for the encoder: z* is detached), `optimum` (the same for z*: latents are detached) and
        `distance` (how much nearer to z* the rejected side is; above 0 the preference is wrong).
    """
    rows, latents = {}, {}
    for side in SIDES:
        window = Window.of(batch, side)
        latents[side] = policy.encode(window)
        predicted = policy.reconstruct(window, latents[side])
        rows[f"{side}_reconstruction"] = reconstruction_loss(predicted, window.actions, window.mask)
    chosen, rejected = (latents[side] for side in SIDES)
    rows["norm"] = norm_loss(chosen) + norm_loss(rejected)
    rows["preference"] = triplet_loss(policy.optimum.detach(), chosen, rejected, margin)
    rows["optimum"] = triplet_loss(policy.optimum, chosen.detach(), rejected.detach(), margin)
    nearness = [functional.pairwise_distance(policy.optimum, each) for each in (chosen, rejected)]
    rows["distance"] = (nearness[0] - nearness[1]).detach()
    return rows


def step_loss(rows: Mapping[str, Tensor], totals: Mapping[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """Put the losses of a step together, each divided by its total.

    Args:
        rows: result of `read_pairs`.
        totals: name of TOTALS -> number of all pairs or steps of the step, over all its batches.
        weights: of the losses.

    Returns:
        `reconstruction` (mean squared error of both sides, added), `preference`, `norm`, and `loss`: what encoder and
        decoder learn from, plus the preference loss of z*. Neither reaches the other's parameters.
    """
    per_side = [rows[f"{side}_reconstruction"].sum() / totals[f"{side}_steps"] for side in SIDES]
    parts = {
        "reconstruction": torch.stack(per_side).sum(),
        **{name: rows[name].sum() / totals["pairs"] for name in ("preference", "norm")},
    }
    of_networks = parts["reconstruction"] + weights.preference * parts["preference"] + weights.norm * parts["norm"]
    return {**parts, "loss": of_networks + rows["optimum"].sum() / totals["pairs"]}
