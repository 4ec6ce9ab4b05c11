"""SePPO's pool: pictures of an earlier self, drawn among several, which is the reference too."""

from typing import Any

import torch

from prl.diffusion.base import NoisyLatents
from prl.diffusion.draws import Key, normal, uniform
from prl.diffusion.rejected.base import RejectedRows, RejectedSource
from prl.diffusion.sampling import ImageSampling, Prompted, sample_latents
from prl.diffusion.snapshots import Weights


class EarlierSelves(RejectedSource):
    """Rejected pictures are samples of one of the last snapshots of the run, drawn anew with each (SePPO, 2410.05255).

    The drawn self is also the reference, so `SePPO` compares the policy with the one that made the rejected picture. A
    snapshot is drawn uniformly among those kept, of which the newest is the policy as it is at that batch. With
    `kept: 1` it is always the newest, which is self-play with `DPO` (SPIN-Diffusion, 2402.10210). The paper takes one
    every 30 updates and draws among 7.

    Second-hand: the pool is as reviews of the paper describe it; the authors released no training code. How many steps
    their sampler takes, and whether it is guided, was not found.

    Args:
        every: training batches from one snapshot to the next.
        kept: snapshots in the pool, in the memory of the CPU; the oldest leaves when a new one comes.
        sampling: how rejected pictures are made.

    Raises:
        ValueError: for fewer than one batch or snapshot.
    """

    is_reference = True

    def __init__(
        self,
        every: int = 30,
        kept: int = 7,
        sampling: ImageSampling = ImageSampling(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(every)
        if kept < 1:
            raise ValueError(f"EarlierSelves.kept is {kept}; expected at least 1 snapshot")
        if sampling.guide is not None:
            raise ValueError(
                "EarlierSelves.sampling.guide is set, but rejected pictures are made without one; leave it out"
            )
        self.kept, self.sampling = kept, sampling
        self.pool: list[Weights] = []
        self.drawn = 0

    def take(self, weights: Weights, key: Key) -> None:
        """Put a snapshot into the pool, and draw one of it."""
        self.pool = [*self.pool, weights][-self.kept :]
        self.drawn = int(float(uniform([key])[0]) * len(self.pool))

    @property
    def weights(self) -> Weights | None:
        """Weights of the drawn self; None while the pool is empty."""
        return self.pool[self.drawn] if self.pool else None

    @torch.no_grad()
    def states(self, rows: RejectedRows) -> NoisyLatents:
        """Sample a picture for each row, and make it noisy as the chosen one."""
        process, sampling = rows.denoiser.process, self.sampling
        predict = Prompted(rows.denoiser, self.maker(rows.network), rows.condition, rows.null, sampling.guidance)
        start = normal([("rejected", *key) for key in rows.keys], rows.noise.shape[1:], rows.noise.device)
        latents = sample_latents(process, predict, start, sampling.steps).to(rows.noise.dtype)
        return process.noisy(latents, rows.noise, process.quantile(rows.share))

    def state_dict(self) -> dict[str, Any]:
        """Return the pool, whose tensors nothing changes, and the number of the drawn self."""
        return {"pool": [dict(each) for each in self.pool], "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved pool."""
        self.pool, self.drawn, self._ready = list(state["pool"]), state["drawn"], None
