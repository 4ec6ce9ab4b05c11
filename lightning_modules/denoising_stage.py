"""What all modules that train the network of a pipeline share: reading it, errors of its predictions, export."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules import optimizers
from lightning_modules.base import TrainingModule
from lightning_modules.picture_validation import PictureValidation
from prl.config import ModelSource, Optimization
from prl.diffusion.denoisers import Condition, Denoiser, load_denoiser
from prl.diffusion.denoisers.base import rows_of
from prl.diffusion.denoisers.loading import check_source
from prl.diffusion.draws import seed_of_run, uniform
from prl.diffusion.rewards import ConsistencyReward, ImageReward, LearnedImageReward, VisionJudge
from prl.diffusion.sampling import ImageSampling
from prl.models.adapters import own_parameters
from prl.run_folder.inputs import Inputs, folder_inputs, pipeline_inputs

log = logging.getLogger(__name__)


class DenoisingStage(TrainingModule):
    """Base of the modules of pictures.

    Args:
        model: folder or hub id of a pipeline of diffusers; with `lora` adapters are trained.
        optimization: learning rate and schedule.
        sampling: how validations make pictures.
        reward: reward of the pictures that validations make; none is measured when null.
        measured: validation prompts for which a picture is made and scored.
        shown: those of them whose pictures are drawn in TensorBoard.
        prompt_tokens: tokens of the T5 text encoder of Stable Diffusion 3 and Wan (`max_sequence_length` there), 512
            for Wan, whose network reads the padding too.
        heldout_reward: second reward of validations.
        clip: frames, height and width of the clips of a model of video; null for pictures.

    Raises:
        ValueError: for settings out of range, or a held-out reward that compares.
    """

    denoiser: Denoiser
    model: Any
    reward: Any

    def __init__(
        self,
        model: ModelSource,
        optimization: Optimization,
        sampling: ImageSampling,
        reward: ImageReward | None,
        measured: int,
        shown: int,
        prompt_tokens: int,
        heldout_reward: ImageReward | None = None,
        clip: list[int] | None = None,
    ) -> None:
        super().__init__()
        check_source(model)
        for name, number in (("measured", measured), ("shown", shown), ("prompt_tokens", prompt_tokens)):
            if number < 0:
                raise ValueError(f"{name} is {number}; expected 0 or more")
        if clip is not None and (len(clip) != 3 or min(clip) < 1):
            raise ValueError(f"clip is {clip}; expected null, or frames, height and width, such as [81, 480, 832]")
        self.source, self.optimization, self.prompt_tokens, self.clip = model, optimization, prompt_tokens, clip
        self.reward = reward
        self.model: Any = None
        rewards = {"reward": reward, "heldout_reward": heldout_reward}
        if heldout_reward is not None and heldout_reward.compares:
            raise ValueError(
                f"heldout_reward is {type(heldout_reward).__name__}, which rewards a picture only beside others of its "
                "prompt; a validation makes one for each prompt, so choose a reward of single pictures"
            )
        if reward is not None and reward.compares and heldout_reward is None and measured:
            log.warning(
                "%s compares the pictures of a prompt, so validations measure nothing; give heldout_reward a reward of "
                "single pictures",
                type(reward).__name__,
            )
        measurable = {name: each for name, each in rewards.items() if each is not None and not each.compares}
        self.pictures = PictureValidation(self, sampling, measurable, measured, shown)
        self._parts: tuple[Denoiser, Any] | None = None

    # ---- set-up

    def read_pipeline(self) -> Denoiser:
        """Read the pipeline once; the data module needs the size of its pictures before the models are placed."""
        if self._parts is None:
            self._parts = load_denoiser(self.source, self.prompt_tokens, self.clip)
        return self._parts[0]

    def reading_prompts(self, encoder: Any) -> Any:
        """Have an encoder refuse prompts that the pipeline would cut."""
        encoder.count_tokens = self.read_pipeline().count_tokens
        return encoder

    def configure_model(self) -> None:
        """Read the pipeline; safe to call twice."""
        if self.model is None:
            self.configure_export()
            self.model = self.shard(self.model)

    def configure_export(self) -> None:
        """Read the pipeline alone."""
        self.read_pipeline()
        assert self._parts is not None
        self.denoiser, self.model = self._parts

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule over the network, or its adapters."""
        learning = [parameter for _, parameter in own_parameters(self.model)]
        return optimizers.configure(learning, self.optimization, self.trainer)

    def inputs(self) -> Inputs:
        """Hash the pipelines and reward models that were read."""
        found = super().inputs()
        sources = {"model": self.source, "reference": getattr(self, "reference_source", None)}
        for name, source in sources.items():
            if source is not None and source.path is not None:
                found |= pipeline_inputs(f"model.{name}", source.path)
        for name, part in self.named_modules():
            if isinstance(part, ConsistencyReward | LearnedImageReward | VisionJudge):
                found |= folder_inputs(f"model.{name}", part.path)
        if self.pictures.sampling.guide is not None:
            found |= pipeline_inputs("model.sampling.guide", self.pictures.sampling.guide.path)
        return found

    def frozen_names(self) -> set[str]:
        """Return the names of weights, and of buffers of frozen parts, that no checkpoint holds."""
        parts = {name: part for name, part in self.named_children() if name != "model"}
        buffers = {f"{name}.{each}" for name, part in parts.items() for each, _ in part.named_buffers()}
        return super().frozen_names() | buffers

    @property
    def noise_seed(self) -> int:
        """Seed of all noise: `seed_everything`. Draws are named by it, the batch and the row, not by their order."""
        return seed_of_run()

    # ---- errors

    def conditions(self, prompts: Sequence[str], keys: Sequence[Any] = (), dropout: float = 0.0) -> Condition:
        """Encode prompts, each once, leaving out a share of them where the draws of `keys` say so."""
        if dropout:
            left_out = (uniform([("prompt", *key) for key in keys]) < dropout).tolist()
            prompts = ["" if out else prompt for prompt, out in zip(prompts, left_out, strict=True)]
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        found = self.denoiser.encode(list(numbers), self.device)
        return rows_of(found, torch.tensor([numbers[prompt] for prompt in prompts], device=self.device))

    def predict(self, network: nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Call a network, the trained one or a copy."""
        return self.denoiser.predict(network, noisy, time, condition)

    # ---- validation and export

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Make a picture for each validation prompt, from the noise of validations, and return its rewards.

        Raises:
            ValueError: without a reward of single pictures.
        """
        if not self.pictures.rewards:
            raise ValueError("prl predict scores a picture of each validation prompt; set model.init_args.reward")
        keys = [("validation", int(row)) for row in batch["index"]]
        images = self.pictures.make(batch["prompts"], keys)
        scores = {name: each.tolist() for name, each in self.pictures.score(images, batch["prompts"]).items()}
        return [
            {"prompt": prompt, **{name: each[number] for name, each in scores.items()}}
            for number, prompt in enumerate(batch["prompts"])
        ]

    def on_train_start(self) -> None:
        """Go on with the schedule, and show the pictures before training."""
        super().on_train_start()
        self.pictures.show_before()

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self.pictures.begin()

    @torch.no_grad()
    def validate_pictures(self, batch: dict[str, Any]) -> None:
        """Make pictures for the prompts of a validation batch, as far as they are measured."""
        self.pictures.add(batch["prompts"], batch["index"], batch.get("users"))

    def on_validation_epoch_end(self) -> None:
        """Log the reward of the pictures of all processes, and draw some of them."""
        self.pictures.finish()

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of model that a card describes."""
        return "pictures"

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the pipeline as a folder for diffusers. Raises ValueError for merge: false without adapters."""
        self.denoiser.save(self.model, folder, merge=merge)
