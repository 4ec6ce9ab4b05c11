"""Stable Diffusion: a UNet that reads the hidden states of a text encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prl.diffusion.denoisers.base import Condition, Denoiser


class StableDiffusion(Denoiser):
    """The network of a `StableDiffusionPipeline` (2112.10752), with an autoencoder or, without one, on pixels."""

    part, cross_attention, attention_settings = "unet", "attn2", "cross_attention_kwargs"

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device) -> Condition:
        """Encode prompts by the pipeline's text encoder."""
        states, _ = self.pipeline.encode_prompt(list(prompts), device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states}

    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call the network."""
        return self.call(network, noisy, time, condition)
