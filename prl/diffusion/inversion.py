"""Inversion: the noise that a model itself puts under a picture."""

from collections.abc import Callable

import torch
from torch import Tensor

from prl.diffusion.base import NoiseProcess, as_rows
from prl.diffusion.ddpm import CLEAN, DDPM


@torch.no_grad()
def invert(
    process: NoiseProcess, predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, time: Tensor, steps: int
) -> Tensor:
    """Find noise eps so that a_t x_0 + s_t eps lies on the model's own path: [N, ...] (2506.02698, ReNoise inversion).

    Each step goes on from the earlier time by the prediction at the later one, as `DDIMInverseScheduler` does, predicts
    again where it arrived, and goes once more by the mean of both predictions. The authors' code renoises at every
    step, their paper at the last. Times are the exact ones of each row; the authors' code takes the level of the last
    time below on a grid.

    Args:
        process: the noise process.
        predict: predicts for noisy latents [N, ...] at times [N].
        clean: [N, ...] clean latents.
        time: [N] times to go to.
        steps: steps on the way.

    Raises:
        ValueError: for a process whose network predicts clean pictures, which say nothing of noise at time 0.
    """
    if isinstance(process, DDPM) and process.prediction == "sample":
        raise ValueError("inversion needs a network that predicts noise or velocities, and this one predicts pictures")
    start = CLEAN if isinstance(process, DDPM) else 0
    latents, now = clean, torch.full_like(time, start)
    for number in range(1, steps + 1):
        then = start + (time - start) * number / steps
        then = then.round().to(time.dtype) if isinstance(process, DDPM) else then
        first = predict(latents, then)
        second = predict(process.move(latents, first, now, then), then)
        latents, now = process.move(latents, (first + second) / 2, now, then), then
    signal, spread = (as_rows(each, clean) for each in process.scales(time))
    return (latents - signal * clean) / spread
