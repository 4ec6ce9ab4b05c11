"""Networks conditioned on one of a few classes: `UNet2DModel`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prl.data.image_encoding import NoSuchPrompt
from prl.diffusion.denoisers.base import Condition, Denoiser


class ClassConditional(Denoiser):
    """A UNet of class numbers, in a `DDPMPipeline` or `DDIMPipeline`.

    A prompt is a number of a class as text. The last class of the network stands for no prompt. A network without
    classes reads no prompts.
    """

    part = "unet"

    def encode(self, prompts: Sequence[str], device: torch.device) -> Condition:
        """Read the class numbers. Raises ValueError for a prompt that is none."""
        if (classes := self.settings.num_class_embeds) is None:
            return {}
        labels = [classes - 1 if prompt == "" else self._label(prompt, classes) for prompt in prompts]
        return {"class_labels": torch.tensor(labels, device=device)}

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Count no tokens. Raises ValueError for a prompt that is no class."""
        if (classes := self.settings.num_class_embeds) is not None:
            self._label(prompt, classes)
        return 0, 0

    def _label(self, prompt: str, classes: int) -> int:
        if not prompt.strip().isdecimal() or int(prompt) >= classes - 1:
            raise NoSuchPrompt(f"prompt {prompt!r} is no class; expected a whole number from 0 to {classes - 2}")
        return int(prompt)

    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call the network."""
        return self.call(network, noisy, time, condition)
