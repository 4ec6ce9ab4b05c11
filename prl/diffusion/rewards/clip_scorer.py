"""A reward model of pictures on CLIP: what it reads, and the folder that holds it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from transformers import AutoConfig, AutoTokenizer, CLIPModel

from prl.models.location import ModelNotFoundError, is_hub_id
from prl.models.quiet import quiet, without_bars
from prl.models.unused import deepspeed_left_alone
from prl.system.outputs import write_text

HEADS, SETTINGS = "heads.safetensors", "image_reward.json"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the channels from 0 to 1, which CLIP was trained with (2103.00020)."""


class ClipScorer(nn.Module):
    """Scores of pictures for prompts by CLIP (2103.00020): of heads, or without heads of similarity alone.

    With heads each is a linear function of both embeddings and of their product, all of length 1. Without heads the
    score is the scaled cosine of both embeddings, as in PickScore (2305.01569), so such a model is read as it is.

    Args:
        clip: the model.
        tokenizer: its tokenizer.
        heads: names of the heads; none for the similarity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: CLIPModel, tokenizer: Any, heads: Sequence[str] = ()) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.names = clip, tokenizer, tuple(heads)
        width: Any = clip.config.projection_dim
        texts: Any = clip.config.text_config
        pictures: Any = clip.config.vision_config
        self.max_length, self.image_size = texts.max_position_embeddings, pictures.image_size
        self.heads = nn.Linear(3 * width, len(self.names)) if self.names else None
        if self.heads is not None:
            clip.logit_scale.requires_grad_(False)  # heads do not read it
            nn.init.zeros_(self.heads.bias)
            nn.init.normal_(self.heads.weight, std=0.01)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture of the model's own size: [C, H, W]."""
        return (3, self.image_size, self.image_size)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N, heads], or [N, 1] without heads.

        Args:
            images: [N, 3, H, W] from -1 to 1, scaled to the size of the model where they have another.
            prompts: N texts.
        """
        told = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        ).to(images.device)
        found = self.clip(
            input_ids=told["input_ids"], attention_mask=told["attention_mask"], pixel_values=self._pixels(images)
        )
        text, picture = (normalize(each.float(), dim=-1) for each in (found.text_embeds, found.image_embeds))
        if self.heads is None:
            return self.clip.logit_scale.exp() * (text * picture).sum(1, keepdim=True)
        return self.heads(torch.cat([text, picture, text * picture], 1))

    def embed(self, images: Tensor) -> Tensor:
        """Embed pictures [N, 3, H, W] from -1 to 1 in the space that they share with texts: [N, D]."""
        found = self.clip.vision_model(pixel_values=self._pixels(images))
        return self.clip.visual_projection(found.pooler_output)

    def _pixels(self, images: Tensor) -> Tensor:
        """Scale pictures as the model reads them. Raises ValueError for clips, or another number of channels."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"pictures have shape {tuple(images.shape[1:])}; CLIP reads (3, H, W), and no clips")
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = interpolate(images, size, mode="bilinear", antialias=True)
        return (((images.float() + 1) / 2 - self.mean) / self.std).to(self.clip.dtype)

    def save(self, folder: Path) -> None:
        """Write a folder that transformers reads as CLIP, with the heads beside it."""
        with quiet(), without_bars(), deepspeed_left_alone():
            self.clip.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        if self.heads is not None:
            state = {name: each.detach().cpu().contiguous() for name, each in self.heads.state_dict().items()}
            save_file(state, folder / HEADS)
        write_text(folder / SETTINGS, json.dumps({"heads": list(self.names)}) + "\n")


def load_clip_scorer(path: str, heads: Sequence[str] | None = None) -> ClipScorer:
    """Read a folder of `ClipScorer.save`, or a CLIP model from a folder or the hub.

    Args:
        path: folder or hub id.
        heads: names of new heads, in place of those of the folder; those of the folder when None.

    Raises:
        ModelNotFoundError: for a folder that is not there, or holds no model.
        ValueError: for a model of another kind, or one without all weights.
    """
    folder = Path(path).expanduser()
    if not folder.exists() and not is_hub_id(path):
        raise ModelNotFoundError(f"folder {path} does not exist; run the stage that writes it first, or give another")
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"folder {path} holds no config.json of a CLIP model; give another folder or a hub id")
    where: Any = str(folder) if folder.is_dir() else path
    with quiet(), without_bars(), deepspeed_left_alone():
        if (kind := AutoConfig.from_pretrained(where).model_type) != "clip":
            raise ValueError(f"the model in {path} is a {kind}; expected a clip, or the folder of a ConvScorer")
        read: Any = CLIPModel.from_pretrained(where, output_loading_info=True)
        clip, found = read
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{path} lacks {len(missing)} weights of a CLIP, the first is {missing[0]}")
        tokenizer = AutoTokenizer.from_pretrained(where)
    told = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).is_file() else {"heads": []}
    scorer = ClipScorer(clip, tokenizer, told["heads"] if heads is None else heads)
    if heads is None and scorer.heads is not None:
        scorer.heads.load_state_dict(load_file(folder / HEADS))
    return scorer
