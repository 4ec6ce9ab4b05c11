"""Reading of pipelines: folders of diffusers, or hub ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prl.config import ModelSource
from prl.diffusion.denoisers.base import Denoiser
from prl.models.loading import add_lora
from prl.models.location import ModelNotFoundError, is_hub_id
from prl.models.quiet import quiet, without_bars
from prl.models.unused import deepspeed_left_alone

NO_DIFFUSERS = "pictures need diffusers, which is not installed: pip install 'pairwise-rl[images]'"
INDEX = "model_index.json"
"""File that says what a pipeline is made of."""
_LANGUAGE = ("config", "tokenizer", "attn_implementation", "chat_template_kwargs", "chat_template_date")
"""Settings of a source that say nothing of a pipeline."""


def load_denoiser(
    source: ModelSource, prompt_tokens: int = 256, clip: Sequence[int] | None = None
) -> tuple[Denoiser, Any]:
    """Read a pipeline, and return its frozen parts and its network, ready for training.

    Weights are read from safetensors only, and no code of the folder is run.

    Args:
        source: folder of a pipeline or hub id; with `lora` adapters are added to the network.
        prompt_tokens: as of `StableDiffusion3` and `Wan`.
        clip: frames, height and width of clips, for a model of video.

    Raises:
        ValueError: without diffusers, for a pipeline of another kind, or for settings of language models.
    """
    check_source(source)
    pipeline = _read(source)
    denoiser = _kind(pipeline, prompt_tokens, clip)
    network = getattr(pipeline, denoiser.part)
    for module in network.modules():  # ratios must be repeatable; the config keeps what it says
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if source.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    network = add_lora(network, source.lora) if source.lora else network.requires_grad_(True)
    return denoiser, network.train()


def check_source(source: ModelSource) -> None:
    """Refuse settings that mean nothing for a pipeline. Raises ValueError."""
    for name in _LANGUAGE:
        if getattr(source, name) is not None:
            raise ValueError(f"model.{name} is a setting of language models; leave it out for a pipeline of diffusers")
    if source.trust_remote_code:
        raise ValueError("model.trust_remote_code: no code of a pipeline's folder is run; leave it out")


def _read(source: ModelSource) -> Any:
    with quiet(), deepspeed_left_alone():  # it warns of packages that pictures do not need
        try:
            from diffusers import DiffusionPipeline
            from diffusers.utils import logging
        except ImportError:
            raise ValueError(NO_DIFFUSERS) from None
    assert source.path is not None
    path = _place(source.path)
    logging.disable_progress_bar()
    try:
        with quiet(), without_bars(), deepspeed_left_alone():
            # Parts that a pipeline does without are named, or diffusers takes them for lost.
            index = DiffusionPipeline.load_config(path)
            absent = {name: None for name, value in index.items() if value == [None, None]}
            dtype = getattr(torch, source.dtype)
            return DiffusionPipeline.from_pretrained(path, dtype=dtype, use_safetensors=True, **absent)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model {source.path} cannot be read as a pipeline of diffusers: {reason}") from error


def _place(path: str) -> str:
    """Return a folder or hub id. Raises ModelNotFoundError for a place that cannot hold a pipeline."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ModelNotFoundError(f"folder {path} holds no {INDEX}: it is no folder of a diffusers pipeline")
    elif folder.is_file() or not is_hub_id(path):
        raise ModelNotFoundError(
            f"model folder {path} does not exist; run the stage that writes it first, or give another folder or hub id"
        )
    return str(folder) if folder.is_dir() else path


def _kind(pipeline: Any, prompt_tokens: int, clip: Sequence[int] | None) -> Denoiser:
    """Choose the denoiser of a pipeline by its class."""
    from prl.diffusion.denoisers.class_conditional import ClassConditional
    from prl.diffusion.denoisers.stable_diffusion import StableDiffusion
    from prl.diffusion.denoisers.stable_diffusion_3 import StableDiffusion3
    from prl.diffusion.denoisers.wan import Wan

    name = type(pipeline).__name__
    if name == "WanPipeline":
        if clip is None:
            raise ValueError(
                "the pipeline makes clips, whose size it does not say: set model.init_args.clip to [F, H, W]"
            )
        return Wan(pipeline, prompt_tokens, clip)
    if clip is not None:
        raise ValueError(f"clip is {list(clip)}, and a {name} makes pictures; leave it out, or choose a model of video")
    if name == "StableDiffusion3Pipeline":
        return StableDiffusion3(pipeline, prompt_tokens)
    kinds = {"StableDiffusionPipeline": StableDiffusion}
    kinds |= dict.fromkeys(("DDPMPipeline", "DDIMPipeline"), ClassConditional)  # type: ignore[arg-type]
    if name not in kinds:
        expected = ", ".join([*kinds, "StableDiffusion3Pipeline", "WanPipeline"])
        raise ValueError(f"the pipeline is a {name}; expected one of {expected}")
    return kinds[name](pipeline)
