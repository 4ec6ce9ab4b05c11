"""The discrete variance-preserving process of DDPM, with DDIM's steps."""

from typing import Any, Literal

import torch
from torch import Tensor

from prl.diffusion.base import GaussianStep, NoiseProcess, as_rows, check_steps

Prediction = Literal["epsilon", "v_prediction", "sample"]
CLEAN = -1
"""Time of a clean image."""


class DDPM(NoiseProcess):
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (2006.11239), times 0 to T - 1, and -1 for the clean image.

    A step is DDIM's (2010.02502, equations 12 and 16): with sigma = eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar /
    abar') its mean is sqrt(abar') x_0 + sqrt(1 - abar' - sigma²) eps and its standard deviation sigma. `eta: 1` has the
    variance of DDPM's posterior between neighbouring times, 0 no noise.

    Args:
        alphas_cumprod: abar_t for t from 0 to T - 1, falling, in (0, 1).
        prediction: what the network predicts: eps, v = sqrt(abar) eps - sqrt(1 - abar) x_0 (2202.00512), or x_0.
        eta: noise of a step.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: Prediction = "epsilon", eta: float = 1.0) -> None:
        known = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        if known.dim() != 1 or not bool(((known > 0) & (known < 1)).all()) or bool((known.diff() >= 0).any()):
            raise ValueError("DDPM.alphas_cumprod: expected a falling list of numbers between 0 and 1")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"DDPM.prediction is {prediction!r}; expected epsilon, v_prediction or sample")
        if not 0 <= eta <= 1:
            raise ValueError(f"DDPM.eta is {eta}; expected a number from 0 to 1")
        self.prediction, self.eta = prediction, eta
        self._abar = torch.cat([known, torch.ones(1, dtype=torch.float64)])  # index -1 is the clean image

    @classmethod
    def from_scheduler(cls, scheduler: Any, eta: float = 1.0) -> "DDPM":
        """Take the noise and the prediction of a scheduler of diffusers, such as a pipeline's."""
        return cls(scheduler.alphas_cumprod, scheduler.config.prediction_type, eta)

    def with_eta(self, eta: float) -> "DDPM":
        """Return the process with other noise in its steps. Raises ValueError for an eta out of range."""
        return DDPM(self._abar[:-1], self.prediction, eta)

    def __len__(self) -> int:
        return len(self._abar) - 1

    def _alpha(self, time: Tensor) -> Tensor:
        index = time.long().cpu()
        if bool(((index < CLEAN) | (index >= len(self))).any()):
            raise ValueError(f"times are {time.tolist()}; expected -1 (clean) to {len(self) - 1}")
        return self._abar[index].to(time.device)

    def scales(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t). Raises ValueError for a time out of range."""
        alpha = self._alpha(time)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the noise, v, or the clean image."""
        if self.prediction == "v_prediction":
            signal, spread = (as_rows(each, clean) for each in self.scales(time))
            return signal * noise - spread * clean
        return noise if self.prediction == "epsilon" else clean

    def split(self, noisy: Tensor, prediction: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Compute x_0 and eps from the prediction."""
        signal, spread = (as_rows(each, noisy) for each in self.scales(time))
        if self.prediction == "v_prediction":
            return signal * noisy - spread * prediction, spread * noisy + signal * prediction
        if self.prediction == "epsilon":
            return (noisy - spread * prediction) / signal, prediction
        return prediction, (noisy - signal * prediction) / spread

    def step(self, noisy: Tensor, prediction: Tensor, time: Tensor, to: Tensor) -> GaussianStep:
        """Compute DDIM's step. Raises ValueError where `to` is not less noisy."""
        alpha, later = self._alpha(time), self._alpha(to)
        if bool((later <= alpha).any()):
            raise ValueError(f"a step goes to less noise: from {time.tolist()} to {to.tolist()}")
        std = self.eta * ((1 - later) / (1 - alpha) * (1 - alpha / later)).sqrt()
        clean, noise = self.split(noisy, prediction, time)
        kept = (1 - later - std.square()).clamp(min=0).sqrt()
        return GaussianStep(as_rows(later.sqrt(), noisy) * clean + as_rows(kept, noisy) * noise, std.to(noisy.dtype))

    def times(self, steps: int) -> Tensor:
        """List evenly spaced times from near T - 1, and -1 at the end ("trailing" in diffusers, 2305.08891).

        Raises:
            ValueError: for fewer than one step or more than T.
        """
        check_steps(steps)
        if steps > len(self):
            raise ValueError(f"steps is {steps}, and the process has {len(self)} times; lower it")
        spaced = torch.arange(steps, dtype=torch.float64)
        return torch.cat([(len(self) - spaced * len(self) / steps).round().long() - 1, torch.tensor([CLEAN])])

    def quantile(self, share: Tensor) -> Tensor:
        """Return the whole times that lie at shares of the way from 0 to T."""
        return (share.double() * len(self)).long().clamp(max=len(self) - 1)

    def share(self, time: Tensor) -> Tensor:
        """Return (t + 1) / T, which is 0 for a clean image and 1 at the last time."""
        return (time.double() + 1) / len(self)

    def later(self, time: Tensor, share: Tensor) -> Tensor:
        """Return whole times behind `time`, all of them alike for shares drawn evenly; the last time stays."""
        last = len(self) - 1
        return (time + 1 + (share.double() * (last - time)).long()).clamp(max=last)
