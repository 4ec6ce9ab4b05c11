"""A small reward model for small pictures: convolutions, and the mean of the words of a prompt."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from prl.system.outputs import write_text

WEIGHTS, SETTINGS = "conv_scorer.safetensors", "conv_scorer.json"
FREQUENCIES = (1, 2, 4, 8)
"""Half turns of the waves that tell a time, over the way from clean to noise."""


class ConvScorer(nn.Module):
    """Scores of heads, read from the product of what convolutions find in a picture and what the words ask for.

    It learns from a few thousand pairs what a transformer needs many more for. The order of words is not read.

    Args:
        tokenizer: tokenizer of the prompts.
        image_size: height and width of the pictures, a multiple of 4.
        channels: channels of the pictures.
        width: channels of the first convolutions.
        heads: names of the heads.
        frames: frames of the clips, which convolutions read as channels of one picture; 1 for pictures.
        time_input: read noisy pictures or latents, with the time as sines and cosines in further channels.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int,
        channels: int = 3,
        width: int = 32,
        heads: Sequence[str] = ("quality",),
        frames: int = 1,
        time_input: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer, self.image_size, self.channels, self.width = tokenizer, image_size, channels, width
        self.frames, self.time_input = frames, time_input
        self.names = tuple(heads)
        read = channels * frames + 2 * len(FREQUENCIES) * time_input
        self.words = nn.Embedding(len(tokenizer), 64)
        self.text = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.picture = nn.Sequential(
            *(nn.Conv2d(read, width, 3, padding=1), nn.SiLU()),
            *(nn.Conv2d(width, width, 3, padding=1, stride=2), nn.SiLU()),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.SiLU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(2 * width * (image_size // 4) ** 2, 128)),
        )
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, len(self.names)))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture, [C, H, W], or of a clip, [C, F, H, W]."""
        frames = (self.frames,) if self.frames > 1 else ()
        return (self.channels, *frames, self.image_size, self.image_size)

    def forward(self, images: Tensor, prompts: Sequence[str], time: Tensor | None = None) -> Tensor:
        """Score pictures or clips: [N, heads].

        Args:
            images: [N, C, H, W] or [N, C, F, H, W] from -1 to 1, or noisy latents.
            prompts: N texts.
            time: [N] shares of the way from clean (0) to noise (1), of a model with `time_input`.

        Raises:
            ValueError: for another shape, or a time too many or too few.
        """
        if (time is not None) != self.time_input:
            raise ValueError(
                "this reward model reads noisy latents with their time, which was not given; see NoisyLatentReward"
                if self.time_input
                else "this reward model reads pictures without noise, so it takes no time; train one with time_input"
            )
        found = self.embed(images, time)
        told = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(images.device)
        mask = told["attention_mask"][..., None].to(images.dtype)
        words = (self.words(told["input_ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.out(found * self.text(words))

    def embed(self, images: Tensor, time: Tensor | None = None) -> Tensor:
        """Embed pictures or clips, as of `forward`: [N, 128]. Raises ValueError for another shape."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"pictures have shape {tuple(images.shape[1:])}; this reward model reads {self.image_shape}"
            )
        images = images.flatten(1, -3)
        if time is not None:
            images = torch.cat([images, _planes(time, images)], 1)
        return self.picture(images)

    def save(self, folder: Path) -> None:
        """Write weights, settings and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: each.detach().cpu().contiguous() for name, each in self.state_dict().items()}, folder / WEIGHTS
        )
        settings: dict[str, Any] = {"image_size": self.image_size, "channels": self.channels, "width": self.width}
        settings["frames"] = self.frames
        settings |= {"time_input": True} if self.time_input else {}
        write_text(folder / SETTINGS, json.dumps({**settings, "heads": self.names}) + "\n")
        self.tokenizer.save_pretrained(folder)


def _planes(time: Tensor, images: Tensor) -> Tensor:
    """Write sines and cosines of times as channels of one number each: [N, 2 F, H, W]."""
    angles = time.to(images)[:, None] * (torch.pi * torch.tensor(FREQUENCIES).to(images))
    return torch.cat([angles.sin(), angles.cos()], 1)[..., None, None].expand(-1, -1, *images.shape[-2:])


def load_conv_scorer(folder: Path, heads: Sequence[str] | None = None, *, time_input: bool = False) -> ConvScorer:
    """Read a folder of `ConvScorer.save`; with `heads` the last layer is made anew.

    With `time_input` a folder without one gets channels of the time, whose weights begin at 0: the model begins with
    what it knows of clean pictures.
    """
    settings = json.loads((folder / SETTINGS).read_text())
    named, had_time = settings.pop("heads"), settings.pop("time_input", False)
    tokenizer, names = AutoTokenizer.from_pretrained(folder), named if heads is None else heads
    scorer = ConvScorer(tokenizer, **settings, heads=names, time_input=time_input or had_time)
    state = load_file(folder / WEIGHTS)
    if scorer.time_input and not had_time:
        first = state["picture.0.weight"]
        state["picture.0.weight"] = torch.cat([first, first.new_zeros(len(first), 2 * len(FREQUENCIES), 3, 3)], 1)
    if heads is not None:
        state |= {name: each for name, each in scorer.state_dict().items() if name.startswith("out.3.")}
    scorer.load_state_dict(state)
    return scorer


def is_conv_scorer(folder: Path) -> bool:
    """Return whether a folder holds such a model."""
    return (folder / SETTINGS).is_file()
