"""Training of a reward model of pictures on pairs: Bradley-Terry, with ties, and with several heads (VideoReward)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.base import TrainingModule
from lightning_modules.reward_checks import check_scalar_needs
from prl.config import ModelSource, Optimization
from prl.data.image_encoding import ImagePairEncoder
from prl.data.rows.image_records import ImagePair
from prl.diffusion.denoisers import Denoiser, load_denoiser
from prl.diffusion.draws import normal, seed_of_run, uniform
from prl.diffusion.rewards.scorers import load_scorer
from prl.diffusion.settings import NoisyPairs, shares_of
from prl.distributed import gathered
from prl.masking import weighted_mean
from prl.objectives.reward import BradleyTerry, PairBatch, RewardObjective
from prl.run_folder.inputs import Inputs, model_inputs, pipeline_inputs
from prl.verdict import agreement, has_winner

LABEL = "{head}_preference"
"""Column of a head's own label: probability that chosen is better in its respect, 1/2 for a tie."""
THIRDS = ("clean", "middle", "noise")
"""Names of the thirds of the way from clean to noise, by which a validation measures a reward of noisy latents."""


class ImageRewardModule(TrainingModule):
    """A reward model of pictures that learns which of two pictures for a prompt is better: CLIP, or a `ConvScorer`.

    With `BradleyTerryTies` and a head for each respect, such as looks, motion and text, it is VideoReward (2501.13918):
    the column `NAME_preference` has the label of head NAME, and a row without it teaches that head nothing. With a
    single head the label is that of the pair.

    With `noisy` a `ConvScorer` learns what a sampler is guided by, Flow-NRG's reward (2501.13918, section 4.3).
    Pictures become latents of the pipeline that is to be guided, both of a pair get one time and one noise, and the
    model reads the noisy latents and the time.

    Args:
        model: folder or hub id of a CLIP model, such as PickScore, or the folder of a `ConvScorer`.
        objective: what is learnt, a class of `prl.objectives.reward` that reads margins alone; `BradleyTerry` when
            null.
        heads: names of new heads; those of the folder when null. For a CLIP without any, as PickScore, its
            similarity of text and picture is trained.
        image_size: height and width of the pictures of the data; the size of the model when null.
        optimization: learning rate and schedule.
        noisy: the pipeline whose noisy latents the model is to read; pictures without noise when null.

    Raises:
        ValueError: for an objective that needs more than margins, heads without a usable name, or a size of pictures
            beside a pipeline that has its own.
    """

    record_type = ImagePair

    def __init__(
        self,
        model: ModelSource,
        objective: RewardObjective | None = None,
        heads: list[str] | None = None,
        image_size: int | None = None,
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        noisy: NoisyPairs | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective or BradleyTerry()
        check_scalar_needs(self.objective)
        self.heads = tuple(heads or ())
        if model.path is None or model.lora is not None:
            raise ValueError("a reward model of pictures is read from model.path, and trained whole, without lora")
        if any(not name.isidentifier() for name in self.heads) or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads is {list(self.heads)}; expected different plain names")
        declared = (self.objective.head_weights, self.objective.operator, self.objective.columns)
        if any(declared) or self.objective.dropout_passes or self.objective.look_ahead or self.objective.needs_traces:
            name = type(self.objective).__name__
            raise ValueError(f"{name} reads more than margins, which pictures do not have; choose another objective")
        if noisy is not None and image_size is not None:
            raise ValueError(
                f"image_size is {image_size}, and the pipeline of noisy has a size of its own; leave it out"
            )
        self.source, self.image_size, self.optimization, self.noisy = model, image_size, optimization, noisy
        self.run_state.register_methods(objective=self.objective)
        self.model: Any = None
        self._scorer: Any = None
        self.denoiser: Denoiser | None = None
        self._validated: list[tuple[Tensor, ...]] = []

    # ---- set-up

    def _read(self) -> Any:
        """Read the model, and the pipeline whose latents it reads. Raises ValueError where they do not fit."""
        if self._scorer is None:
            assert self.source.path is not None
            self._scorer = load_scorer(self.source.path, self.heads or None, noisy=self.noisy is not None)
            if self.noisy is not None:
                self.denoiser, _ = load_denoiser(ModelSource(path=self.noisy.pipeline), clip=self.noisy.clip)
                _check_shapes(self._scorer, self.denoiser, self.noisy.pipeline)
        return self._scorer

    def build_encoder(self) -> ImagePairEncoder:
        """Build the encoder of pairs; the data module calls this."""
        scorer = self._read()
        *_, own = shape = scorer.image_shape if self.denoiser is None else self.denoiser.image_shape
        size = self.image_size or own
        return ImagePairEncoder((*shape[:-2], size, size), optional=self._labels())

    def _labels(self) -> list[str]:
        """List the columns of the heads' own labels; none for a single head, whose label is that of the pair."""
        names = self._read().names
        return [LABEL.format(head=name) for name in names] if len(names) > 1 else []

    def configure_model(self) -> None:
        """Read the model; safe to call twice."""
        if self.model is None:
            self.model = self.shard(self._read().train())

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule."""
        return optimizers.configure(self.model.parameters(), self.optimization, self.trainer)

    def inputs(self) -> Inputs:
        """Hash the model that was read."""
        of_pipeline = {} if self.noisy is None else pipeline_inputs("model.noisy", self.noisy.pipeline)
        return super().inputs() | model_inputs("model.model", self.source) | of_pipeline

    def frozen_names(self) -> set[str]:
        """Return the names of weights, and of buffers of the pipeline, that no checkpoint holds."""
        buffers = () if self.denoiser is None else self.denoiser.named_buffers(prefix="denoiser")
        return super().frozen_names() | {name for name, _ in buffers}

    # ---- training

    def _margins(self, batch: dict[str, Any], time: Tensor | None) -> Tensor:
        """Compute what each head says of chosen less what it says of rejected: [B, heads].

        Args:
            batch: B pairs.
            time: [B] times of noisy latents, of `_times`.
        """
        images, prompts = torch.cat([batch["chosen"], batch["rejected"]]), batch["prompts"] * 2
        if time is None or self.denoiser is None:
            chosen, rejected = self.model(images, prompts).chunk(2)
            return chosen - rejected
        process, latents = self.denoiser.process, self.denoiser.to_latents(images)
        noise = normal([("noise", *key) for key in self._keys(batch)], latents.shape[1:], self.device)
        both = time.repeat(2)
        noisy = process.corrupt(latents, torch.cat([noise, noise]), both).to(latents.dtype)
        chosen, rejected = self.model(noisy, prompts, process.share(both)).chunk(2)
        return chosen - rejected

    def _times(self, batch: dict[str, Any]) -> Tensor | None:
        """Draw the time of each pair, for both of its pictures: [B]; None for pictures without noise."""
        if self.noisy is None or self.denoiser is None:
            return None
        drawn = uniform([("time", *key) for key in self._keys(batch)], self.device)
        return self.denoiser.process.quantile(shares_of(self.noisy.times, drawn))

    def _keys(self, batch: dict[str, Any]) -> list[tuple[int | str, ...]]:
        """Name the draws of each pair; those of validations are always the same."""
        of = ("train", self.batches_done()) if self.training else ("validation",)
        return [(seed_of_run(), *of, row) for row in batch["index"].tolist()]

    def _targets(self, batch: dict[str, Any]) -> Tensor:
        labels = [batch["column." + name] for name in self._labels()]
        return torch.stack(labels or [batch["targets"]], 1)

    def _losses(self, margins: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of the heads of each pair that have a label: [B]."""
        each = []
        for margin, target in zip(margins.unbind(1), targets.to(margins.dtype).unbind(1), strict=True):
            first = torch.ones_like(margin[None], dtype=torch.bool)
            each.append(self.objective.loss(PairBatch(margin[None], first, target.nan_to_num(1.0))))
        there = ~targets.isnan()
        return (torch.stack(each, 1) * there).sum(1) / there.sum(1).clamp(min=1)

    def step_totals(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weight of each pair."""
        return {"weights": batch["weights"]}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair over all ranks and all batches of a step."""
        margins, targets = self._margins(batch, self._times(batch)), self._targets(batch)
        losses, weights = self._losses(margins, targets), batch["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        self.log("train/accuracy", _accuracy(margins.detach(), targets), prog_bar=True)
        return loss

    # ---- validation and export

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self._validated = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Remember margins, labels and weights, and the share of noise in the latents."""
        time = self._times(batch)
        share = torch.zeros_like(batch["weights"])
        if self.denoiser is not None and time is not None:
            share = self.denoiser.process.share(time)
        found = (self._margins(batch, time).float(), self._targets(batch), batch["weights"], share)
        self._validated.append(tuple(each.cpu() for each in found))

    def on_validation_epoch_end(self) -> None:
        """Log the loss, and the share of pairs with a winner that each head gets right, over all ranks.

        Of noisy latents also the share of all heads together, by thirds of the way from clean to noise.
        """
        parts = [part for own in gathered(self._validated) for part in own]
        self._validated = []
        margins, targets, weights, share = (torch.cat(each) for each in zip(*parts, strict=True))
        losses = (self._losses(margins, targets) * weights).sum() / weights.sum()
        self.log("val/loss", losses, prog_bar=True, rank_zero_only=True)
        names = self._read().names
        for number, name in enumerate(names if len(names) > 1 else [""]):
            right = _accuracy(margins[:, number], targets[:, number])
            self.log(f"val/accuracy{name and '/'}{name}", right, prog_bar=not name, rank_zero_only=True)
        for number, name in enumerate(THIRDS if self.noisy is not None else ()):
            rows = (share * len(THIRDS)).long().clamp(max=len(THIRDS) - 1) == number
            if rows.any():
                right = _accuracy(margins[rows], targets[rows])
                self.log(f"val/accuracy_by_time/{name}", right, rank_zero_only=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, float]]:
        """Return what each head says of chosen less what it says of rejected, for validation pairs in file order."""
        names = [f"margin_{name}" for name in self._read().names if len(self._read().names) > 1] or ["margin"]
        return [dict(zip(names, row, strict=True)) for row in self._margins(batch, self._times(batch)).tolist()]

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of model that a card describes."""
        return "image_reward" if self.noisy is None else "noisy_reward"

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the model for `LearnedImageReward`, or `NoisyLatentReward`. Raises ValueError for merge: false."""
        if not merge:
            raise ValueError(
                "merge: false writes adapters alone, and a reward model of pictures has none; leave it out"
            )
        self.model.save(folder)


def _check_shapes(scorer: Any, denoiser: Denoiser, pipeline: str) -> None:
    """Refuse a model that cannot read the latents of a pipeline. Raises ValueError."""
    read, made = scorer.image_shape, denoiser.latent_shape
    if read != made:
        raise ValueError(
            f"the reward model reads {list(read)}, and latents of {pipeline} have the shape {list(made)}; make a "
            "ConvScorer of that shape, or choose another pipeline for noisy"
        )


def _accuracy(margins: Tensor, targets: Tensor) -> Tensor:
    """Compute the share of labels with a winner that margins agree with; 0 without any."""
    counted = has_winner(targets) & ~targets.isnan()
    right = agreement(margins, targets).nan_to_num(0.0) * counted
    return right.sum() / counted.sum().clamp(min=1)
