"""Socket of denoisers: what prompts and pictures are to a network that predicts noise."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prl.diffusion.base import NoiseProcess
from prl.diffusion.ddpm import DDPM
from prl.diffusion.rectified_flow import RectifiedFlow
from prl.models.adapters import is_adapted, own_adapters
from prl.models.loading import freeze
from prl.models.quiet import quiet, without_bars
from prl.models.unused import deepspeed_left_alone

Condition = dict[str, Tensor]
"""Arguments of a network that say what to make, each [N, ...]; all rows have one shape, whatever their prompts are."""
USERS = "users"
"""Name, in a condition, of the tokens of users [N, E, D], which `prl.diffusion.user_attention` reads."""


class Denoiser(nn.Module, ABC):
    """The frozen parts of a pipeline, and how its network is called. The network itself is held by who trains it.

    Args:
        pipeline: a pipeline of diffusers.
    """

    part: ClassVar[str]
    """Name, in the pipeline, of the network that learns."""
    cross_attention: ClassVar[str | None] = None
    """Name of the attention over prompts in the blocks of the network; None without one."""
    attention_settings: ClassVar[str] = ""
    """Argument of the network that hands further arguments to its attention."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        network: Any = parts.pop(self.part)
        self.settings: Any = network.config
        self.dtype: torch.dtype = network.dtype
        self.frozen = nn.ModuleDict({name: freeze(part) for name, part in parts.items()})
        self.process = process_of(pipeline.scheduler)
        # A flow's network is told its times in the units of its scheduler.
        steps = pipeline.scheduler.config.num_train_timesteps
        self.time_scale = steps if isinstance(self.process, RectifiedFlow) else 1

    @property
    def vae(self) -> Any:
        """The autoencoder of latent models; None for a model of pixels."""
        return self.frozen._modules.get("vae")

    @property
    def scale(self) -> int:
        """Pixels along a side of a picture, for one place of a latent."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent: [C, H, W]."""
        size = self.settings.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.settings.in_channels, height, width)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a picture: [C, H, W]."""
        channels, height, width = self.latent_shape
        return (channels if self.vae is None else self.vae.config.in_channels, height * self.scale, width * self.scale)

    def latents_of(self, size: int | None) -> tuple[int, ...]:
        """Return the shape of the latent of a square picture of another size; of the model's own for None.

        Raises:
            ValueError: for a size that patches or halvings of the network do not divide, or beyond its places.
        """
        if size is None:
            return self.latent_shape
        part = getattr(self.settings, "patch_size", 2 ** (len(getattr(self.settings, "down_block_types", "1")) - 1))
        unit = self.scale * (part if isinstance(part, int) else part[-1])
        largest = getattr(self.settings, "pos_embed_max_size", None)
        if size % unit or (largest is not None and size > largest * unit):
            most = "" if largest is None else f" up to {largest * unit}"
            raise ValueError(
                f"pictures of {size} pixels cannot be made by this model; expected a multiple of {unit}{most}"
            )
        return (*self.latent_shape[:-2], size // self.scale, size // self.scale)

    @abstractmethod
    def encode(self, prompts: Sequence[str], device: torch.device) -> Condition:
        """Encode prompts; the empty one stands for no prompt.

        Raises:
            ValueError: for a prompt that the model cannot read.
        """

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Count the tokens of a prompt, and tell how many the first text encoder reads; others would be cut off."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None:
            return 0, 0
        limit = int(tokenizer.model_max_length)
        return len(tokenizer(prompt, truncation=True, max_length=limit + 1)["input_ids"]), limit

    @abstractmethod
    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call the network: [N, ...].

        Args:
            network: the network, or a copy of it.
            noisy: [N, ...] noisy latents.
            time: [N] times of the process.
            condition: of `encode`, with N rows.
        """

    def call(self, network: Any, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call a network in the type of its weights, with times in the units of its scheduler: [N, ...].

        Args:
            network: the network.
            noisy: [N, ...] noisy latents; the result has their type.
            time: [N] times of the process.
            condition: further arguments of the network.
        """
        told = (time * self.time_scale).float() if isinstance(self.process, RectifiedFlow) else time
        given: dict[str, Any] = {
            key: each.to(self.dtype) if each.is_floating_point() else each for key, each in condition.items()
        }
        given["timestep"] = told.to(noisy.device)
        if (users := given.pop(USERS, None)) is not None:
            given[self.attention_settings] = {"ip_hidden_states": users}
        return network(noisy.to(self.dtype), return_dict=False, **given)[0].to(noisy.dtype)

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        """Encode pictures from -1 to 1 [N, C, H, W] by the mode of the autoencoder; without one they stay."""
        if self.vae is None:
            return images
        latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return ((latents - shift) * self.vae.config.scaling_factor).to(images.dtype)

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Decode latents as pictures from -1 to 1, which are cut there."""
        if self.vae is None:
            return latents.clamp(-1, 1)
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scaled = latents / self.vae.config.scaling_factor + shift
        return self.vae.decode(scaled.to(self.vae.dtype)).sample.to(latents.dtype).clamp(-1, 1)

    def save(self, network: Any, folder: Path, *, merge: bool = True) -> None:
        """Write the pipeline with a trained network, as a folder that diffusers loads.

        Args:
            network: the network; it stays as it is.
            folder: made if need be.
            merge: put adapters into the weights. Otherwise only they are written, for `pipeline.load_lora_weights`.

        Raises:
            ValueError: for merge: false on a network without adapters, or of a pipeline that cannot load them.
        """
        from peft import get_peft_model_state_dict

        if not merge:
            if not is_adapted(network):
                raise ValueError("the model has no adapters to write alone: model.lora was not set when it was trained")
            if not hasattr(self.pipeline, "save_lora_weights"):
                raise ValueError(f"a {type(self.pipeline).__name__} cannot load adapters alone; export them merged")
            found = get_peft_model_state_dict(network)
            layers = {name.removeprefix("base_model.model."): weight for name, weight in found.items()}
            settings = network.peft_config[own_adapters(network)].to_dict()
            named = {f"{self.part}_lora_layers": layers, f"{self.part}_lora_adapter_metadata": settings}
            self.pipeline.save_lora_weights(folder, safe_serialization=True, **named)
            return
        whole = copy.deepcopy(network).merge_and_unload() if is_adapted(network) else network
        before = getattr(self.pipeline, self.part)
        setattr(self.pipeline, self.part, whole)
        try:
            save_pipeline(self.pipeline, folder)
        finally:
            setattr(self.pipeline, self.part, before)


def process_of(scheduler: Any) -> NoiseProcess:
    """Read the noise process of a scheduler of diffusers, with steps that add no noise.

    Raises:
        ValueError: for a scheduler of another process.
    """
    if "FlowMatch" in type(scheduler).__name__:
        return RectifiedFlow(kind="ode", shift=scheduler.config.shift)
    if getattr(scheduler.config, "use_flow_sigmas", False):  # UniPC of Wan: a solver for flows
        return RectifiedFlow(kind="ode", shift=scheduler.config.flow_shift)
    if hasattr(scheduler, "alphas_cumprod"):
        return DDPM.from_scheduler(scheduler, eta=0.0)
    raise ValueError(
        f"the scheduler of this pipeline is a {type(scheduler).__name__}; expected one with alphas_cumprod, such as "
        "DDPMScheduler, or a flow-matching one"
    )


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Write a pipeline as safetensors, without the words of diffusers about parts that it does not have."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quiet(), without_bars(), deepspeed_left_alone():
            pipeline.save_pretrained(folder, safe_serialization=True)
    finally:
        logging.set_verbosity(before)


def rows_of(condition: Condition, rows: Tensor) -> Condition:
    """Take some rows of a condition."""
    return {name: each[rows] for name, each in condition.items()}


def repeated(condition: Condition, times: int) -> Condition:
    """Repeat each row of a condition `times` times in a row."""
    return {name: each.repeat_interleave(times, 0) for name, each in condition.items()}
