"""Rectified flow: straight lines from images to noise, with the stochastic steps that policies need."""

import math
from typing import Literal

import torch
from torch import Tensor

from prl.diffusion.base import GaussianStep, NoiseProcess, as_rows, check_steps

FlowStep = Literal["sde", "cps", "ode"]


class RectifiedFlow(NoiseProcess):
    """x_t = (1 - t) x_0 + t eps (2209.03003), t from 1 (noise) to 0 (clean); the network predicts eps - x_0.

    Steps, with v the prediction, t' < t and dt = t' - t:

    - `ode`: x + v dt, without noise.
    - `sde` (Flow-GRPO, 2505.05470, equations 7 to 9): s = level sqrt(t / (1 - t)), mean
      x (1 + s² dt / (2 t)) + v (1 + s² (1 - t) / (2 t)) dt, standard deviation s sqrt(-dt): the flow's marginals at
      every t for small dt. At t = 1, where s has no bound, 1 - t in s is that of `first`, as in the authors' code.
    - `cps` (2509.05952, as Adv-GRPO's code has it): standard deviation t' sin(level pi / 2), mean
      (1 - t') x_0 + sqrt(t'² - std²) eps, which has the noise of time t' for any dt.

    Args:
        kind: kind of the steps.
        level: noise of a step; 0 gives the steps of `ode` in all three.
        first: 1 - t of s at t = 1, usually 1 less the second time of the sampler; null for 1 - t'.
        shift: how far the times of a sampler are moved towards noise, t -> shift t / (1 + (shift - 1) t) (2403.03206,
            equation 23); 1 leaves them evenly spaced.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(
        self, kind: FlowStep = "sde", level: float = 0.7, first: float | None = None, shift: float = 1.0
    ) -> None:
        if kind not in ("sde", "cps", "ode"):
            raise ValueError(f"RectifiedFlow.kind is {kind!r}; expected sde, cps or ode")
        if not level >= 0 or (kind == "cps" and level > 1):
            raise ValueError(f"RectifiedFlow.level is {level}; expected at least 0, and at most 1 with kind: cps")
        if first is not None and not 0 < first < 1:
            raise ValueError(f"RectifiedFlow.first is {first}; expected a number between 0 and 1")
        if not shift > 0:
            raise ValueError(f"RectifiedFlow.shift is {shift}; expected a number above 0")
        self.kind, self.level, self.first, self.shift = kind, level, first, shift

    def scales(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - t and t. Raises ValueError for a time out of range."""
        time = time.double()
        if bool(((time < 0) | (time > 1)).any()):
            raise ValueError(f"times are {time.tolist()}; expected 0 (clean) to 1 (noise)")
        return 1 - time, time

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the velocity eps - x_0."""
        return noise - clean

    def split(self, noisy: Tensor, prediction: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Compute x_0 = x - t v and eps = x + (1 - t) v."""
        signal, spread = (as_rows(each, noisy) for each in self.scales(time))
        return noisy - spread * prediction, noisy + signal * prediction

    def step(self, noisy: Tensor, prediction: Tensor, time: Tensor, to: Tensor) -> GaussianStep:
        """Compute a step of the kind set. Raises ValueError where `to` is not less noisy."""
        (left, now), (_, then) = self.scales(time), self.scales(to)
        if bool((then >= now).any()):
            raise ValueError(f"a step goes to less noise: from {time.tolist()} to {to.tolist()}")
        if self.kind == "ode" or self.level == 0:
            return GaussianStep(self.move(noisy, prediction, time, to), noisy.new_zeros(len(noisy)))
        if self.kind == "cps":
            std = then * math.sin(self.level * math.pi / 2)
            clean, noise = self.split(noisy, prediction, time)
            kept = (then.square() - std.square()).clamp(min=0).sqrt()
            mean = as_rows(1 - then, noisy) * clean + as_rows(kept, noisy) * noise
            return GaussianStep(mean, std.to(noisy.dtype))
        at_noise = 1 - then if self.first is None else torch.full_like(left, self.first)
        variance = self.level**2 * now / torch.where(left > 0, left, at_noise)  # s²
        passed = then - now
        of_x = as_rows(1 + variance * passed / (2 * now), noisy)
        of_v = as_rows((1 + variance * left / (2 * now)) * passed, noisy)
        return GaussianStep(of_x * noisy + of_v * prediction, (variance * -passed).sqrt().to(noisy.dtype))

    def times(self, steps: int) -> Tensor:
        """List times from 1 to 0, evenly spaced before the shift. Raises ValueError for fewer than one step."""
        check_steps(steps)
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return self.shift * even / (1 + (self.shift - 1) * even)

    def quantile(self, share: Tensor) -> Tensor:
        """Return the times themselves, which are uniform in training."""
        return share.double()

    def share(self, time: Tensor) -> Tensor:
        """Return the times themselves."""
        return time.double()

    def later(self, time: Tensor, share: Tensor) -> Tensor:
        """Return t + share (1 - t)."""
        return time.double() + share.double() * (1 - time.double())
