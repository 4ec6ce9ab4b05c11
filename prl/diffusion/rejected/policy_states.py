"""Diffusion-DRO's negatives: noisy states on the policy's own way, with its own predictions of them."""

from typing import Any

import torch

from prl.diffusion.base import NoisyLatents
from prl.diffusion.denoisers.base import rows_of
from prl.diffusion.draws import Key, normal
from prl.diffusion.rejected.base import RejectedRows, RejectedSource
from prl.diffusion.snapshots import Weights


class PolicyStates(RejectedSource):
    """Rejected states are those of a snapshot's sampler, and what it predicted there is their target (2510.18353).

    A state x_t is reached from noise in steps of the same length, without guidance and without a flow's shift, and ends
    at the time of its row, which is that of the chosen picture with `noise.share_time`. So times along a trajectory
    differ from row to row as those that the authors perturb. In
    `DiffusionDRO` the error of such a state says how far the policy has left its snapshot. With `every: 1` it has not:
    the error is 0 and has no gradient, and the reference's error there decides alone how far the chosen picture has to
    lead.

    The authors (algorithm 1, and `misc/buffer.py` of their code) keep the trajectories of 4 rows, of which each
    optimizer step draws states and which it replaces. Here every row has a state of its own, so nothing is kept but the
    snapshot, and a trajectory ends where its state is, half of the way on average. Theirs go by DPM-Solver++, these by
    DDIM without noise, or Euler steps of a flow.

    Args:
        every: training batches from one snapshot to the next; 1 in the paper, counted in optimizer steps.
        steps: steps of the sampler from noise to a picture.

    Raises:
        ValueError: for fewer than one batch or step.
    """

    def __init__(self, every: int = 1, steps: int = 20) -> None:
        super().__init__(every)
        if steps < 1:
            raise ValueError(f"PolicyStates.steps is {steps}; expected at least 1")
        self.steps = steps
        self._weights: Weights | None = None

    def take(self, weights: Weights, key: Key) -> None:
        """Keep the newest snapshot."""
        self._weights = weights

    @property
    def weights(self) -> Weights | None:
        """Weights of the snapshot; None before the first training batch."""
        return self._weights

    @torch.no_grad()
    def states(self, rows: RejectedRows) -> NoisyLatents:
        """Go from noise to the time of each row, and predict there."""
        process, network = rows.denoiser.process, self.maker(rows.network)
        latents = normal([("rejected", *key) for key in rows.keys], rows.noise.shape[1:], rows.noise.device)
        moves = ((1 - rows.share) * self.steps).ceil()
        for left in range(int(moves.max()), 0, -1):
            going = (moves >= left).nonzero().squeeze(1)
            share = rows.share[going]
            now = process.quantile((share + left / self.steps).clamp(max=1))
            then = process.quantile(share + (left - 1) / self.steps)
            noisy = latents[going]
            predicted = rows.denoiser.predict(network, noisy, now, rows_of(rows.condition, going))
            latents = latents.index_copy(0, going, process.move(noisy, predicted, now, then).to(latents.dtype))
        time = process.quantile(rows.share)
        return NoisyLatents(latents, time, rows.denoiser.predict(network, latents, time, rows.condition))

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshot, whose tensors nothing changes."""
        return {"weights": None if self._weights is None else dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved snapshot."""
        self._weights, self._ready = state["weights"], None
