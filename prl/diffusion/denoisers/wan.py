"""Wan, a model of video: a transformer over the frames of a clip that reads the hidden states of a T5 encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prl.diffusion.denoisers.base import Condition, Denoiser


class Wan(Denoiser):
    """The network of a `WanPipeline` with one transformer (2503.20314), with an autoencoder or, without one, on pixels.

    Clips are [N, C, F, H, W]. Their size is not written in the pipeline, so it is a setting.

    Args:
        pipeline: the pipeline.
        prompt_tokens: tokens that prompts are padded to, as `max_sequence_length` of the pipeline.
        clip: frames, height and width of the clips.

    Raises:
        ValueError: for a pipeline of two transformers, or a size that the network cannot make.
    """

    part = "transformer"

    def __init__(self, pipeline: Any, prompt_tokens: int, clip: Sequence[int]) -> None:
        super().__init__(pipeline)
        if getattr(pipeline, "transformer_2", None) is not None or pipeline.config.expand_timesteps:
            raise ValueError(
                "this Wan pipeline has two transformers, or a time for each frame, as those of Wan 2.2; only pipelines "
                "with one transformer are read, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
            )
        self.prompt_tokens, self.clip = prompt_tokens, tuple(clip)
        frames, *sides = self.clip
        if (frames - 1) % self.frames_scale:
            raise ValueError(f"clip has {frames} frames; expected 1 and a multiple of {self.frames_scale}")
        if (part := self.settings.patch_size[0]) > 1 and self.latent_shape[1] % part:
            raise ValueError(f"clip has {self.latent_shape[1]} frames of latents; expected a multiple of {part}")
        unit = self.scale * self.settings.patch_size[-1]
        if any(side % unit for side in sides):
            raise ValueError(f"clip is {sides[0]}x{sides[1]} pixels; expected multiples of {unit}")

    @property
    def scale(self) -> int:
        """Pixels along a side of a frame, for one place of a latent."""
        return 1 if self.vae is None else self.vae.config.scale_factor_spatial

    @property
    def frames_scale(self) -> int:
        """Frames of a clip for one frame of a latent, after the first."""
        return 1 if self.vae is None else self.vae.config.scale_factor_temporal

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent: [C, F, H, W]."""
        frames, height, width = self.clip
        latents = (frames - 1) // self.frames_scale + 1
        return (self.settings.in_channels, latents, height // self.scale, width // self.scale)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a clip: [C, F, H, W]."""
        return (self.settings.in_channels if self.vae is None else self.vae.config.in_channels, *self.clip)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device) -> Condition:
        """Encode prompts by the pipeline's text encoder."""
        found = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=self.prompt_tokens, device=device
        )
        return {"encoder_hidden_states": found[0]}

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Count the tokens of a prompt, and tell how many are read."""
        return len(self.pipeline.tokenizer(prompt)["input_ids"]), self.prompt_tokens

    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call the network."""
        return self.call(network, noisy, time, condition)

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        """Encode clips from -1 to 1 [N, C, F, H, W] by the mode of the autoencoder, scaled for each channel."""
        if self.vae is None:
            return images
        mean, std = self._scaling(images)
        latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode().to(images.dtype)
        return (latents - mean) / std

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Decode latents as clips from -1 to 1, which are cut there."""
        if self.vae is None:
            return latents.clamp(-1, 1)
        mean, std = self._scaling(latents)
        return self.vae.decode((latents * std + mean).to(self.vae.dtype)).sample.to(latents.dtype).clamp(-1, 1)

    def _scaling(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        return tuple(like.new_tensor(each).view(-1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))  # type: ignore[return-value]
