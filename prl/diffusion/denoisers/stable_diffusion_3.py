"""Stable Diffusion 3: a transformer that reads the hidden states of up to three text encoders."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prl.diffusion.denoisers.base import Condition, Denoiser


class StableDiffusion3(Denoiser):
    """The network of a `StableDiffusion3Pipeline` (2403.03206), with an autoencoder or, without one, on pixels.

    Args:
        pipeline: the pipeline.
        prompt_tokens: tokens of the third text encoder, as `max_sequence_length` of the pipeline; as many zeros stand
            in its place where there is none.
    """

    part, cross_attention, attention_settings = "transformer", "attn", "joint_attention_kwargs"

    def __init__(self, pipeline: Any, prompt_tokens: int = 256) -> None:
        super().__init__(pipeline)
        self.prompt_tokens = prompt_tokens

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device) -> Condition:
        """Encode prompts by the pipeline's text encoders."""
        texts = list(prompts)
        found = self.pipeline.encode_prompt(
            *(texts, texts, texts),
            device=device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.prompt_tokens,
        )
        return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}

    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call the network."""
        return self.call(network, noisy, time, condition)
