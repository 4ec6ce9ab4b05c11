"""A diffusion or flow model that learns from pairs of pictures, by whichever preference objective."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lightning_modules.denoising_stage import DenoisingStage
from lightning_modules.drift import DriftMonitor
from lightning_modules.pair_training import PairTraining
from lightning_modules.preference_checks import check_needs, check_reference
from prl.config import ModelSource, Optimization
from prl.data.columns import numbers_of
from prl.data.image_encoding import COUNT, ChosenEncoder, ImagePairEncoder
from prl.data.rows.image_records import CaptionedImage, ImagePair
from prl.diffusion.denoisers import Condition, load_denoiser
from prl.diffusion.denoisers.base import rows_of
from prl.diffusion.draws import normal, uniform
from prl.diffusion.inversion import invert
from prl.diffusion.rejected import RejectedRows, RejectedSource
from prl.diffusion.rewards import ImageReward
from prl.diffusion.sampling import ImageSampling
from prl.diffusion.settings import NoiseDraws
from prl.models.adapters import is_adapted, without_adapters
from prl.models.loading import freeze
from prl.objectives.preference import DPO, PreferenceBatch, PreferenceObjective, ScoredResponses


class DenoisingPreferenceModule(DenoisingStage, PairTraining):
    """A preference objective on the errors of a denoiser: Diffusion-DPO (2311.12908), Flow-DPO (2501.13918) and others.

    A picture counts as a response of one token, whose log-probability is minus half the error of the network's
    prediction at a random time and noise, err(x) = |prediction - target|². That bounds the log-probability of the
    picture up to a constant and a weight (2311.12908, equation 14; the weight of each time is taken as constant). So
    with `objective: DPO` the loss is -log sigma(-beta / 2 [(err - err_ref)(chosen) - (err - err_ref)(rejected)]), and
    every objective that needs no more than log-probabilities learns from pictures too.

    With `rejected` the model makes rejected pictures itself, and rows are of prompt and image, the chosen picture.

    Args:
        model: folder or hub id of a pipeline of diffusers; with `lora` adapters are trained.
        objective: what is learnt, a class of `prl.objectives.preference` or of your own with its settings; DPO with
            beta 2000 when null, which belongs to the mean over the dimensions of large latents.
        reference: pipeline of the reference; the model's when null. With adapters on the model, the reference is the
            model with adapters off and costs no memory. Not for objectives that need none.
        rejected: where rejected pictures come from, a class of `prl.diffusion.rejected` or of your own; the data when
            null.
        noise: how pictures are made noisy, and how errors are summed up.
        optimization: learning rate and schedule.
        sampling: how validations make pictures.
        reward: reward of the pictures that validations make; none is measured when null.
        measured: validation prompts for which a picture is made and scored.
        shown: those of them whose pictures are drawn in TensorBoard.
        prompt_tokens: tokens of the T5 text encoder of Stable Diffusion 3 and Wan (`max_sequence_length` there), 512
            for Wan, whose network reads the padding too.
        clip: frames, height and width of the clips of a model of video; null for pictures.

    Raises:
        ValueError: for an objective that needs what pictures cannot have, a reference that is not needed, or `rejected`
            with settings or a strategy that it cannot work with.
    """

    record_type = ImagePair

    def __init__(
        self,
        model: ModelSource,
        objective: PreferenceObjective | None = None,
        reference: ModelSource | None = None,
        rejected: RejectedSource | None = None,
        noise: NoiseDraws = NoiseDraws(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-6),  # noqa: B008 - frozen
        sampling: ImageSampling = ImageSampling(),  # noqa: B008 - frozen
        reward: ImageReward | None = None,
        measured: int = 64,
        shown: int = 16,
        prompt_tokens: int = 256,
        clip: list[int] | None = None,
    ) -> None:
        super().__init__(model, optimization, sampling, reward, measured, shown, prompt_tokens, clip=clip)
        self.objective = objective or DPO(beta=2000.0)
        check_needs(self.objective)
        _check_pictures(self.objective)
        check_reference(self.objective, model, reference, "live")
        self.reference_source, self.rejected, self.noise = reference, rejected, noise
        self.reference: Any = None
        if rejected is not None:
            _check_rejected(rejected, self.objective, reference, noise)
            self.record_type = CaptionedImage  # type: ignore[misc, assignment]  # as long as this module lives
        self.reference_moves = rejected is not None and rejected.is_reference
        self.drift = DriftMonitor(from_reference=self._reads_reference and reference is None)
        self.run_state.register("drift", self.drift)
        self.run_state.register_methods(objective=self.objective, rejected=rejected)
        self._validated: list[tuple[Tensor, Tensor]] = []

    @property
    def _reads_reference(self) -> bool:
        """Tell whether the objective reads a fixed reference: the start of the run, or `reference`."""
        return self.objective.needs_reference and not self.reference_moves

    def build_encoder(self) -> ImagePairEncoder | ChosenEncoder:
        """Build the encoder of pairs, or of chosen pictures alone; the data module calls this."""
        needs = self.objective
        shape = self.read_pipeline().image_shape
        if self.rejected is not None:
            return self.reading_prompts(ChosenEncoder(shape))
        return self.reading_prompts(
            ImagePairEncoder(shape, needs.views, needs.columns, needs.probabilities, needs.lists)
        )

    def configure_model(self) -> None:
        """Read the pipeline, and the reference that the objective needs; safe to call twice."""
        if self.model is not None:
            return
        if self.rejected is not None and self.sharding.cuts_weights:
            raise ValueError(
                f"rejected is {type(self.rejected).__name__}, which keeps whole weights of earlier batches, and this "
                "strategy cuts weights into shards; use ddp, or zero2"
            )
        super().configure_model()
        if self._reads_reference and (self.reference_source is not None or not self.starts_as_reference):
            _, network = load_denoiser(self.reference_source or self.source, self.prompt_tokens, self.clip)
            self.reference = self.shard(freeze(network))

    @property
    def starts_as_reference(self) -> bool:
        """Tell whether the network still holds the weights it started from, so that it is the reference too."""
        return is_adapted(self.model)

    def as_reference(self) -> AbstractContextManager[None]:
        """Enter around a pass of the network as it was at its start."""
        return without_adapters(self.model)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Take a snapshot of the network where one is due."""
        super().on_train_batch_start(batch, batch_idx)
        if self.rejected is not None:
            self.rejected.begin_batch(self.batches_done(), self.noise_seed, self.model)

    def score(self, batch: dict[str, Any]) -> PreferenceBatch:
        """Compute the errors of all pictures of B pairs, in one pass of the network and one of the reference."""
        lists = self.objective.lists
        places = {name: [(n, name) for n in range(len(batch["targets"]))] for name in self.objective.views}
        for name in lists:
            places[name] = [(n, f"{name}.{k}") for n, of in enumerate(batch[COUNT + name].tolist()) for k in range(of)]
        latents = self.denoiser.to_latents(torch.cat([batch[name] for name in places if name in batch]))
        logprobs, reference = self._read(batch, latents, [each for some in places.values() for each in some])
        start, views = 0, {}
        for name, own in places.items():
            part, start = slice(start, start + len(own)), start + len(own)
            of_reference = None if reference is None else reference[part, None]
            mask = torch.ones(len(own), 1, dtype=torch.bool, device=self.device)
            responses = ScoredResponses(logprobs[part, None], mask, of_reference)
            views[name] = responses.of_lists(batch[COUNT + name]) if name in lists else responses
        columns = [*self.objective.columns, *(column for some in lists.values() for column in some)]
        return PreferenceBatch(views, batch["targets"], numbers_of(batch, columns))

    def _read(
        self, batch: dict[str, Any], latents: Tensor, places: list[tuple[int, str]]
    ) -> tuple[Tensor, Tensor | None]:
        """Compute minus half the errors of the network and of the reference: [N] each.

        Args:
            batch: B pairs.
            latents: pictures of all views, one view after the other; those that `rejected` makes are not among them.
            places: N pairs, by their number in the batch, each with the name of its picture there.
        """
        process, draws = self.denoiser.process, self.noise
        of = ("train", self.batches_done()) if self.training else ("validation",)
        keys = [(self.noise_seed, *of, number) for number in batch["index"].tolist()]
        own = [(*keys[number], name) for number, name in places]
        shared = [keys[number] for number, _ in places]
        time_keys = [("time", *key) for key in (shared if draws.share_time else own)]
        noise_keys = [("noise", *key) for key in (shared if draws.share_noise else own)]
        condition = self.row_conditions(batch, keys)
        condition = rows_of(condition, torch.tensor([number for number, _ in places], device=self.device))
        share = draws.share_of(uniform(time_keys, self.device))
        noise = normal(noise_keys, latents.shape[1:], self.device)
        time, given = process.quantile(share), len(latents)
        if draws.inversion_steps:
            noise = self._inverted(latents, time, condition)
        states = process.noisy(latents, noise[:given], time[:given])
        if self.rejected is not None:
            of_rejected = rows_of(condition, torch.arange(given, len(places), device=self.device))
            drawn = (share[given:], noise[given:])
            null = self.conditions([""] * len(keys))
            rows = RejectedRows(self.denoiser, self.model, keys, of_rejected, null, *drawn)
            states = states.followed_by(self.rejected.states(rows))

        def halved(network: Any) -> Tensor:
            predicted = self.predict(network, states.noisy, states.time, condition)
            return -0.5 * states.errors(predicted, draws.reduction)

        return halved(self.model), self._of_reference(halved)

    def row_conditions(self, batch: dict[str, Any], keys: Sequence[Any]) -> Condition:
        """Encode what B pictures of a batch are to show; keys name the draws of its rows."""
        return self.conditions(batch["prompts"], keys, self.noise.prompt_dropout if self.training else 0.0)

    def _of_reference(self, halved: Any) -> Tensor | None:
        if not self.objective.needs_reference:
            return None
        with torch.no_grad():
            if self.rejected is not None and self.rejected.is_reference:
                return halved(self.rejected.maker(self.model))
            if self.reference is not None:
                return halved(self.reference)
            with self.as_reference():
                return halved(self.model)

    def _inverted(self, latents: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Find the noise of pictures by the network as it is now."""

        def predict(noisy: Tensor, at: Tensor) -> Tensor:
            return self.predict(self.model, noisy, at, condition)

        return invert(self.denoiser.process, predict, latents, time, self.noise.inversion_steps).to(latents.dtype)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Return implicit rewards, their margin and minus half of the errors, for validation pairs in file order."""
        return PairTraining.predict_step(self, batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        DenoisingStage.on_validation_epoch_start(self)
        PairTraining.on_validation_epoch_start(self)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Remember the loss and the numbers of each pair, and make pictures of the prompts."""
        PairTraining.validation_step(self, batch, batch_idx)
        self.validate_pictures(batch)

    def on_validation_epoch_end(self) -> None:
        """Log means over the pairs of all ranks, and what the pictures show."""
        PairTraining.on_validation_epoch_end(self)
        DenoisingStage.on_validation_epoch_end(self)


def _check_rejected(
    rejected: RejectedSource, objective: PreferenceObjective, reference: ModelSource | None, noise: NoiseDraws
) -> None:
    """Refuse what cannot be together with rejected pictures that the model makes. Raises ValueError."""
    name, maker = type(objective).__name__, type(rejected).__name__
    further = [*objective.views[2:], *objective.lists, *objective.columns]
    if further:
        raise ValueError(
            f"rejected is {maker}, with rows of prompt and image alone, but {name} reads {further[0]!r} of each pair; "
            "leave rejected out, and give pairs"
        )
    if reference is not None and rejected.is_reference:
        raise ValueError(f"reference is set, but {maker} makes an earlier self the reference; leave it out")
    if noise.inversion_steps:
        raise ValueError(
            f"noise.inversion_steps is {noise.inversion_steps}, which is for pairs of the data; leave it at 0 with "
            f"rejected: {maker}"
        )


def _check_pictures(objective: PreferenceObjective) -> None:
    """Refuse an objective that reads tokens or states, which pictures do not have. Raises ValueError."""
    name = type(objective).__name__
    needs = {
        "a critic": objective.needs_critic,
        "hidden states": objective.needs_hidden,
        "heads": bool(objective.heads),
        "the KL of each token": objective.needs_kl,
        "steps of a text": objective.step_separator is not None,
        "revisions": bool(objective.revisions),
        "guides": bool(objective.guides),
        "classes": bool(objective.classes),
    }
    if missing := [what for what, is_needed in needs.items() if is_needed]:
        raise ValueError(f"{name} needs {missing[0]}, which pictures do not have; choose another objective")
