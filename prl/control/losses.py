"""Losses of OPPO (Beyond Reward, 2305.16217), as its authors' code has them: one number for each row."""

from torch import Tensor
from torch.nn import functional


def triplet_loss(optimum: Tensor, chosen: Tensor, rejected: Tensor, margin: float = 1.0) -> Tensor:
    """Compute max(0, ||z* - z_chosen|| - ||z* - z_rejected|| + margin): [B]. No gradient once the margin is kept.

    Args:
        optimum: z*, [Z].
        chosen: latents of the preferred segments [B, Z].
        rejected: latents of the other segments [B, Z].
        margin: by how much the preferred ones should be nearer.

    Distances are torch's `pairwise_distance`, which adds 1e-6 to each difference.
    """
    anchors = optimum.expand_as(chosen)
    return functional.triplet_margin_loss(anchors, chosen, rejected, margin=margin, reduction="none")


def norm_loss(latents: Tensor) -> Tensor:
    """Compute (||z|| - 1)² of latents [B, Z]: [B]."""
    return (latents.norm(dim=1) - 1).square()


def reconstruction_loss(predicted: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """Sum the squared errors of actions [B, T, A] over the steps of the mask [B, T], averaged over A: [B]."""
    return ((predicted - actions).square().mean(-1) * mask).sum(1)
