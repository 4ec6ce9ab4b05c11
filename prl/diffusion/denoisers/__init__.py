"""Pipelines of diffusers as training reads them, one file for each kind of network."""

from prl.diffusion.denoisers.base import Condition, Denoiser
from prl.diffusion.denoisers.loading import load_denoiser

__all__ = ["Condition", "Denoiser", "load_denoiser"]
