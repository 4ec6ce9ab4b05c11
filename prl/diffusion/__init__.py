"""Diffusion and flow models: how images become noise, and how a step of the sampler goes back."""

from prl.diffusion.base import GaussianStep, NoiseProcess, Reduction
from prl.diffusion.ddpm import DDPM
from prl.diffusion.rectified_flow import RectifiedFlow

__all__ = ["DDPM", "GaussianStep", "NoiseProcess", "RectifiedFlow", "Reduction"]
