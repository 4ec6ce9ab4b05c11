"""Supervised training of a diffusion or flow model on pictures with captions."""

import logging
import math
from typing import Any

import torch
from torch import Tensor

from lightning_modules.denoising_stage import DenoisingStage
from prl.config import ModelSource, Optimization
from prl.data.columns import COLUMN
from prl.data.image_encoding import CaptionEncoder
from prl.data.rows.image_records import CaptionedImage
from prl.diffusion.draws import normal, uniform
from prl.diffusion.rewards import ImageReward
from prl.diffusion.sampling import ImageSampling
from prl.diffusion.settings import NoiseDraws
from prl.masking import weighted_mean

log = logging.getLogger(__name__)


class DenoisingModule(DenoisingStage):
    """Learns to predict the noise in pictures, for the base model of the methods on preferences.

    With `reward_scale` it is reward-weighted regression, Flow-RWR (2501.13918): the mean of errors is weighted by
    exp(reward_scale reward), with the number that each row has in the column `reward`. Equal rewards give plain
    training. The weight of each time, (1 - t)² in the derivation, is left out, as the paper does.

    Args:
        model: folder or hub id of a pipeline of diffusers; with `lora` adapters are trained.
        noise: how pictures are made noisy.
        reward_scale: weight of the rewards of the rows; they are not read when null.
        optimization: learning rate and schedule.
        sampling: how validations make pictures.
        reward: reward of the pictures that validations make; none is measured when null.
        measured: validation prompts for which a picture is made and scored.
        shown: those of them whose pictures are drawn in TensorBoard.
        prompt_tokens: tokens of the T5 text encoder of Stable Diffusion 3 and Wan (`max_sequence_length` there), 512
            for Wan, whose network reads the padding too.
        clip: frames, height and width of the clips of a model of video; null for pictures.
    """

    record_type = CaptionedImage

    def __init__(
        self,
        model: ModelSource,
        noise: NoiseDraws = NoiseDraws(prompt_dropout=0.1),  # noqa: B008 - frozen
        reward_scale: float | None = None,
        optimization: Optimization = Optimization(learning_rate=1e-4),  # noqa: B008 - frozen
        sampling: ImageSampling = ImageSampling(),  # noqa: B008 - frozen
        reward: ImageReward | None = None,
        measured: int = 64,
        shown: int = 16,
        prompt_tokens: int = 256,
        clip: list[int] | None = None,
    ) -> None:
        super().__init__(model, optimization, sampling, reward, measured, shown, prompt_tokens, clip=clip)
        if noise.inversion_steps:
            raise ValueError("noise.inversion_steps is of pairs; leave it out")
        if reward_scale is not None and not math.isfinite(reward_scale):
            raise ValueError(f"reward_scale is {reward_scale}; expected null or a finite number")
        if sampling.guidance != 1 and not noise.prompt_dropout:
            log.warning(
                "sampling.guidance is %s, but noise.prompt_dropout is 0, so training never shows a picture without a "
                "prompt, which guidance leads away from",
                sampling.guidance,
            )
        self.noise, self.reward_scale = noise, reward_scale

    def build_encoder(self) -> CaptionEncoder:
        """Build the encoder of pictures with captions; the data module calls this."""
        return self.reading_prompts(CaptionEncoder(self.read_pipeline().image_shape, self._columns))

    @property
    def _columns(self) -> tuple[str, ...]:
        return () if self.reward_scale is None else ("reward",)

    def step_totals(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weight of each picture."""
        if self.reward_scale is None:
            return {"weights": torch.ones(len(batch["index"]), device=batch["index"].device)}
        return {"weights": (self.reward_scale * batch[COLUMN + "reward"]).exp()}

    def _errors(self, batch: dict[str, Any], of: tuple[Any, ...], dropout: float) -> Tensor:
        """Compute the error of each picture: [B]."""
        keys = [(self.noise_seed, *of, row) for row in batch["index"].tolist()]
        latents = self.denoiser.to_latents(batch["images"])
        time = self.noise.time_of(self.denoiser.process, uniform([("time", *key) for key in keys], self.device))
        noise = normal([("noise", *key) for key in keys], latents.shape[1:], self.device)
        condition = self.conditions(batch["prompts"], keys, dropout)
        noisy = self.denoiser.process.corrupt(latents, noise, time).to(latents.dtype)
        predicted = self.predict(self.model, noisy, time, condition)
        return self.denoiser.process.errors(predicted, latents, noise, time, self.noise.reduction)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the weighted mean error per picture over all ranks and all batches of a step."""
        errors = self._errors(batch, ("train", self.batches_done()), self.noise.prompt_dropout)
        weights = self.step_totals(batch)["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(errors, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the error of validation pictures, and make pictures of their prompts."""
        errors = self._errors(batch, ("validation",), 0.0)
        self.log("val/loss", errors.mean(), prog_bar=True, sync_dist=True, batch_size=len(errors))
        self.validate_pictures(batch)
