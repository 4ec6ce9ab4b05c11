"""Self-NPO: a network made worse by its own careless pictures, to guide the good one away from."""

import copy
from typing import Any

import torch
from torch import Tensor

from lightning_modules.denoising_stage import DenoisingStage
from prl.config import ModelSource, Optimization
from prl.data.image_encoding import ImagePromptEncoder
from prl.data.rows.image_records import ImagePrompt
from prl.diffusion.draws import normal, uniform
from prl.diffusion.rewards import ImageReward
from prl.diffusion.sampling import ImageSampling, Prompted
from prl.diffusion.truncated import Truncation, learnt_error, truncate
from prl.masking import weighted_mean
from prl.models.adapters import own_parameters
from prl.models.loading import freeze


class SelfNPOModule(DenoisingStage):
    """Learns from its own truncated sampling, without pictures, pairs or rewards (Self-NPO, 2505.11777).

    The teacher, an average of the network's earlier weights, takes a few large steps from noise without the prompt, and
    its clean estimate there is what the network is to predict, with the prompt, from the same latent with more noise.
    The exported pipeline is for `NegativeGuided`, in place of the model without a prompt. The paper's equations are
    known second-hand; its authors' code takes the steps from noised training pictures, so that it needs data.

    Args:
        model: folder or hub id of a pipeline of diffusers; with `lora` adapters are trained.
        truncation: steps of the teacher, and the loss.
        teacher_decay: share of the teacher's weights that stays at each optimizer step; 0 has the network teach itself.
        optimization: learning rate and schedule.
        sampling: how validations make pictures.
        reward: reward of the pictures that validations make; none is measured when null.
        measured: validation prompts for which a picture is made and scored.
        shown: those of them whose pictures are drawn in TensorBoard.
        prompt_tokens: tokens of the T5 text encoder of Stable Diffusion 3 and Wan (`max_sequence_length` there), 512
            for Wan, whose network reads the padding too.
        clip: frames, height and width of the clips of a model of video; null for pictures.

    Raises:
        ValueError: for settings out of range.
    """

    record_type = ImagePrompt

    def __init__(
        self,
        model: ModelSource,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
        teacher_decay: float = 0.999,
        optimization: Optimization = Optimization(learning_rate=1e-6),  # noqa: B008 - frozen
        sampling: ImageSampling = ImageSampling(),  # noqa: B008 - frozen
        reward: ImageReward | None = None,
        measured: int = 64,
        shown: int = 16,
        prompt_tokens: int = 256,
        clip: list[int] | None = None,
    ) -> None:
        super().__init__(model, optimization, sampling, reward, measured, shown, prompt_tokens, clip=clip)
        if not 0 <= teacher_decay < 1:
            raise ValueError(f"teacher_decay is {teacher_decay}; expected at least 0 and below 1")
        self.truncation, self.teacher_decay = truncation, teacher_decay
        self.teacher: Any = None

    # ---- set-up

    def build_encoder(self) -> ImagePromptEncoder:
        """Build the encoder of prompts; the data module calls this."""
        return self.reading_prompts(ImagePromptEncoder(self.read_pipeline().image_shape))

    def configure_model(self) -> None:
        """Read the pipeline, and copy its network, with its adapters, as the teacher; safe to call twice."""
        if self.model is not None:
            return
        self.configure_export()
        network: Any = self.model
        teacher = freeze(copy.deepcopy(network))
        self.model, self.teacher = self.shard(network), self.shard(teacher)

    def frozen_names(self) -> set[str]:
        """Return the names of weights that no checkpoint holds; those that the teacher averages it does hold."""
        learning = [] if self.model is None else own_parameters(self.model)
        return super().frozen_names() - {f"teacher.{name}" for name, _ in learning}

    # ---- training

    def _errors(self, batch: dict[str, Any], *of: int | str) -> Tensor:
        """Compute the error of the network's clean estimate for each prompt: [B]."""
        denoiser, device, settings = self.denoiser, self.device, self.truncation
        keys = [(self.noise_seed, *of, row) for row in batch["index"].tolist()]
        start = normal([("start", *key) for key in keys], denoiser.latent_shape, device)
        noise = normal([("noise", *key) for key in keys], denoiser.latent_shape, device)
        counts = 1 + (uniform([("steps", *key) for key in keys], device) * settings.steps).long()
        condition, null = self.conditions(batch["prompts"]), self.conditions([""] * len(keys))
        # Without guidance by the prompt the teacher is asked once.
        guided = Prompted(denoiser, self.teacher, condition, null, settings.guidance)
        teacher = guided if settings.guidance else Prompted(denoiser, self.teacher, null)
        found = truncate(denoiser.process, teacher, start, counts, settings)
        later = denoiser.process.later(found.time, uniform([("later", *key) for key in keys], device))
        return learnt_error(denoiser.process, Prompted(denoiser, self.model, condition), found, later, noise, settings)

    def step_totals(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weight of each prompt."""
        return {"weights": torch.ones(len(batch["index"]), device=batch["index"].device)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the mean error per prompt over all ranks and all batches of a step."""
        errors = self._errors(batch, "train", self.batches_done())
        weights = self.step_totals(batch)["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(errors, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and have the teacher follow."""
        super().optimizer_step(*args, **kwargs)
        self.average()

    @torch.no_grad()
    def average(self) -> None:
        """Move the teacher's weights towards the network's by the share 1 - `teacher_decay`.

        Weights in shards are gathered one after the other. The teacher has no backward pass behind which its gathered
        weights would be cut again, and moves of gathered ones would be lost with them.
        """
        self.sharding.reshard(self.model)
        self.sharding.reshard_frozen(self.teacher)
        for kept, weight in self._averaged():
            before = self.sharding.full_copy(kept)
            now = self.sharding.full_copy(weight).to(before)
            self.sharding.assign_full(kept, torch.lerp(before, now, 1 - self.teacher_decay))

    def _averaged(self) -> list[tuple[Any, Any]]:
        """Pair each weight of the teacher that is an average with the network's own."""
        of_teacher = dict(self.teacher.named_parameters())
        return [(of_teacher[name], weight) for name, weight in own_parameters(self.model)]

    def on_train_start(self) -> None:
        """Go on with the schedule.

        Raises:
            ValueError: for a teacher in less than float32, whose moves would be rounded away.
        """
        super().on_train_start()
        if low := {str(kept.dtype) for kept, _ in self._averaged() if torch.finfo(kept.dtype).bits < 32}:
            raise ValueError(
                f"the teacher would average weights in {low.pop().removeprefix('torch.')}, where its moves are rounded "
                "away; set trainer.precision: 32-true, or take another strategy than DeepSpeed's"
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the error for validation prompts, and make pictures of them."""
        errors = self._errors(batch, "validation")
        self.log("val/loss", errors.mean(), prog_bar=True, sync_dist=True, batch_size=len(errors))
        self.validate_pictures(batch)
