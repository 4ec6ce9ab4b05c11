"""A policy that learns from preference pairs, by whichever objective: offline preference optimisation."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.base import TrainingModule
from lightning_modules.drift import DriftMonitor
from lightning_modules.preference_checks import check_guides, check_needs, check_reference
from lightning_modules.reference import REFERENCE, cached_reference, reference_logprobs, role_of
from prl.checkpoints.position import is_dry_run
from prl.config import ModelSource, Optimization, check_length
from prl.data.columns import numbers_of
from prl.data.preference_encoding import COUNT, PreferenceEncoder
from prl.data.reference_cache import ReferenceLogprobs
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong
from prl.distributed import gathered, global_sum
from prl.masking import weighted_mean
from prl.models.adapters import is_adapted, without_adapters
from prl.models.limits import check_fits, check_same_ids
from prl.models.loading import freeze, load_causal_lm, load_tokenizer, save_model
from prl.models.logprobs import completion_logprobs, completion_mask
from prl.objectives.preference import DPO, PreferenceBatch, PreferenceObjective, ScoredResponses
from prl.rollouts.generate import keep_end_tokens
from prl.run_folder.inputs import Inputs, model_inputs
from prl.verdict import agreement, has_winner

log = logging.getLogger(__name__)


class PreferenceModule(TrainingModule):
    """A preference objective on the log-probabilities of the responses of each pair.

    Args:
        model: the policy, usually a language model trained on demonstrations.
        objective: what is learnt, a class of `prl.objectives.preference` or of your own with its settings; DPO with its
            defaults when null.
        reference: source of the reference; the policy's source when null. With adapters on the
            policy, the reference is the policy with adapters off and costs no memory. Not for objectives that need
            none.
        reference_logprobs: live reads the reference, and guides, in each step. cached has them read all pairs once
            before training, keeps the log-probabilities in prl's cache folder, and frees them. Both give equal bits.
        optimization: learning rate and schedule.
        max_length: longest prompt and response, tokens.
        on_too_long: error, truncate or skip, with counts, for longer pairs.
        guides: source of each further frozen model that the objective reads, by its name there.

    Raises:
        ValueError: for an objective that needs what pairs cannot have, or a reference or guide that is not needed, or
            not there.
    """

    record_type = PreferencePair

    def __init__(
        self,
        model: ModelSource,
        objective: PreferenceObjective | None = None,
        reference: ModelSource | None = None,
        reference_logprobs: Literal["live", "cached"] = "live",
        optimization: Optimization = Optimization(learning_rate=1e-6),  # noqa: B008 - frozen
        max_length: int = 1024,
        on_too_long: OnTooLong = "error",
        guides: dict[str, ModelSource] | None = None,
    ) -> None:
        super().__init__()
        objective = objective or DPO()
        check_needs(objective)
        check_reference(objective, model, reference, reference_logprobs)
        check_guides(objective, guides or {})
        self.source, self.reference_source, self.objective = model, reference, objective
        self.reference_logprobs, self.optimization = reference_logprobs, optimization
        check_length("max_length", max_length)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.model: Any = None
        self.reference: Any = None
        self.guide_sources: dict[str, ModelSource] = dict(guides or {})
        self.guides: Any = nn.ModuleDict()
        self.drift = DriftMonitor(from_reference=objective.needs_reference and reference is None)
        self.run_state.register("drift", self.drift)
        self.run_state.register_methods(objective=objective)
        self._cached: dict[tuple[str, str], ReferenceLogprobs] = {}
        self._validated: list[tuple[Tensor, Tensor]] = []

    # ---- set-up

    def build_encoder(self) -> PreferenceEncoder:
        """Build the encoder of pairs; the data module calls this."""
        tokenizer = load_tokenizer(self.source)
        guides = {role_of(name): source for name, source in self.guide_sources.items()}
        for role, source in {"model": self.source, REFERENCE: self.reference_source, **guides}.items():
            if source is not None:
                check_fits(source, tokenizer, self.max_length, role=role, setting="max_length")
        for name, source in self.guide_sources.items():
            check_same_ids(source, tokenizer, setting=f"guides.{name}")
        objective = self.objective
        reads = (objective.views, objective.columns, objective.probabilities, objective.lists)
        revised = (objective.revisions, objective.revision_prompt)
        return PreferenceEncoder(tokenizer, self.max_length, self.on_too_long, *reads, *revised)

    def configure_model(self) -> None:
        """Read or make the policy, and the frozen models that the objective needs; safe to call twice."""
        if self.model is not None:
            return
        with self.loading_models():
            self.configure_export()
        self.model = self.shard(self.model)
        if self.objective.needs_reference and (self.reference_source is not None or not is_adapted(self.model)):
            with self.loading_models():
                reference = freeze(load_causal_lm(self.reference_source or self.source))
            self.reference = self.shard(reference)
        for name, source in self.guide_sources.items():
            with self.loading_models():
                guide = freeze(load_causal_lm(source))
            self.guides[name] = self.shard(guide)

    def configure_export(self) -> None:
        """Read the policy alone."""
        self.model = load_causal_lm(self.source).train()

    def on_fit_start(self) -> None:
        """Have the frozen models read all pairs, where they are to do so once, and let go of them."""
        if self.reference_logprobs != "cached" or is_dry_run(self.trainer):
            return
        trainer: Any = self.trainer
        data = trainer.datamodule
        if not getattr(data, "cache", False):
            raise ValueError(
                "reference_logprobs: cached keeps numbers in prl's cache folder, which data.cache: false "
                "leaves alone; use live, or data.cache: true"
            )
        sides = ["train"] + ["validation"] * bool(trainer.limit_val_batches)
        for name, source in self.frozen_sources().items():
            with self._frozen(name) as model, trainer.precision_plugin.forward_context():
                for side in sides:
                    self._cached[name, side] = cached_reference(
                        *(model, source, data.rows[side], data.encoder),
                        role=role_of(name),
                        sharding=self.sharding,
                        precision=trainer.precision,
                        is_writer=trainer.local_rank == 0,
                    )
        self.reference = None
        self.guides.clear()

    def frozen_sources(self) -> dict[str, ModelSource]:
        """Return the sources of the frozen models that the objective reads: the reference, then guides by name."""
        reference = {REFERENCE: self.reference_source or self.source} if self.objective.needs_reference else {}
        return {**reference, **self.guide_sources}

    def inputs(self) -> Inputs:
        """Hash the folders of the models that were read, guides included."""
        found = super().inputs()
        for name, source in self.guide_sources.items():
            found |= model_inputs(f"model.guides.{name}", source)
        return found

    # ---- what models say of a batch

    def score(self, batch: dict[str, Tensor]) -> PreferenceBatch:
        """Score all responses of B pairs in one pass of the policy, and look up or compute those of frozen models."""
        frozen = {name: self._frozen_logprobs(name, batch) for name in self.frozen_sources()}
        names = ("input_ids", "attention_mask", "loss_mask")
        logprobs, mask = completion_logprobs(self.model, *(batch[name] for name in names))
        lists = self.objective.lists
        sizes = dict.fromkeys([*self.objective.views, *self.objective.revisions], len(batch["targets"]))
        sizes |= {name: int(batch[COUNT + name].sum()) for name in lists}
        start, views = 0, {}
        for name, size in sizes.items():
            rows, start = slice(start, start + size), start + size
            others = {model: found[rows] for model, found in frozen.items()}
            responses = ScoredResponses(logprobs[rows], mask[rows], others.pop(REFERENCE, None), others)
            views[name] = responses.of_lists(batch[COUNT + name]) if name in lists else responses
        columns = [*self.objective.columns, *(column for some in lists.values() for column in some)]
        return PreferenceBatch(views, batch["targets"], numbers_of(batch, columns))

    def _frozen_logprobs(self, name: str, batch: dict[str, Tensor]) -> Tensor:
        side = "train" if self._trainer is not None and self.trainer.training else "validation"
        if (name, side) in self._cached and "index" in batch:
            return self._cached[name, side].of(batch["index"], batch["pairs"], completion_mask(batch["loss_mask"]))
        with self._frozen(name) as model:
            return reference_logprobs(model, batch, self.sharding)

    @contextmanager
    def _frozen(self, name: str) -> Iterator[Any]:
        """Yield a frozen model, ready to read: one of its own, or as reference the policy with its adapters off."""
        frozen = self.reference if name == REFERENCE else dict(self.guides).get(name)
        if frozen is not None:
            yield frozen
            self.sharding.reshard_frozen(frozen)  # no backward pass brings its shards back
            return
        if name != REFERENCE or not is_adapted(self.model):
            raise ValueError(f"the {role_of(name)} has been let go of, and these rows are in no cache; start with live")
        with without_adapters(self.model):
            yield self.model
        self.sharding.reshard(self.model)

    def _losses(self, pairs: PreferenceBatch) -> Tensor:
        losses = self.objective.loss(pairs)
        if tuple(losses.shape) != (len(pairs),):
            name = type(self.objective).__name__
            raise ValueError(
                f"{name}.loss gave shape {tuple(losses.shape)}; expected a loss for each of {len(pairs)} pairs, [B]"
            )
        if torch.is_grad_enabled() and not losses.requires_grad:
            raise ValueError(
                f"{type(self.objective).__name__}.loss gave losses without a gradient, so nothing can be learnt; "
                "compute them from logprobs without detach, item or numpy"
            )
        return losses

    # ---- training

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each pair."""
        return {"weights": batch["weights"]}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair over all ranks and all batches of a step."""
        pairs = self.score(batch)
        losses, weights = self._losses(pairs), batch["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        with torch.no_grad():
            self._log_training(pairs)
        return loss

    def _log_training(self, pairs: PreferenceBatch) -> None:
        found = self._measured(pairs)
        right, counted = _accuracy(found["margin"], pairs.target)
        self.log("train/accuracy", right.sum() / counted.sum() if counted.any() else 0.5, prog_bar=True)
        self.log("train/margin", ((2 * pairs.target - 1) * found["margin"]).mean())
        sides = ("chosen", "rejected")
        for side in sides:
            self.log(f"rewards/{side}", found[f"rewards/{side}"].mean())
            self.log(f"logps/{side}", found[f"logps/{side}"].mean())
        moved = torch.stack([found[f"moved/{side}"].sum() for side in sides] + [found["margin"].new_tensor(len(pairs))])
        chosen, rejected, count = global_sum(moved.float()).tolist()
        self.log_dict(self.drift.observe(chosen / count, rejected / count), rank_zero_only=True)
        if (warning := self.drift.warning()) is not None and self._trainer is not None and self.trainer.is_global_zero:
            log.warning(warning)

    def _measured(self, pairs: PreferenceBatch) -> dict[str, Tensor]:
        """Compute the logged numbers of each pair, [B] each: implicit rewards, log-probabilities, and their drift."""
        found = {}
        for name in ("chosen", "rejected"):
            responses = pairs.views[name]
            found[f"rewards/{name}"] = self.objective.reward(responses)
            found[f"logps/{name}"] = responses.logprob()
            has_reference = responses.ref_logprobs is not None
            found[f"moved/{name}"] = responses.log_ratio() if has_reference else found[f"logps/{name}"]
        return {**found, "margin": found["rewards/chosen"] - found["rewards/rejected"]}

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self._validated = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Remember the loss and the numbers of each pair."""
        pairs = self.score(batch)
        found = {"loss": self._losses(pairs), **self._measured(pairs)}
        rows = batch.get("index", torch.arange(len(pairs)))
        columns = [found[name] for name in (*_MEANS, "margin")] + [pairs.target, batch["weights"]]
        self._validated.append((rows.cpu(), torch.stack([each.double().cpu() for each in columns], dim=1)))

    def on_validation_epoch_end(self) -> None:
        """Log means over the pairs of all ranks, in the order of the file, however many ranks read it."""
        parts = [part for own in gathered(self._validated) for part in own]
        self._validated = []
        order = torch.cat([rows for rows, _ in parts]).argsort(stable=True)
        numbers = torch.cat([values for _, values in parts])[order]
        *_, margin, target, weights = columns = list(numbers.unbind(1))
        values = dict(zip(_MEANS, (each.mean() for each in columns), strict=False))
        values["loss"] = (columns[0] * weights).sum() / weights.sum()
        right, counted = _accuracy(margin, target)
        values["accuracy"] = right.sum() / counted.sum() if counted.any() else torch.tensor(0.5)
        values["margin"] = ((2 * target - 1) * margin).mean()
        for name, value in values.items():
            # Without a reference, a single validation does not know the log-probabilities of the start.
            if not name.startswith("moved/") or self.objective.needs_reference:
                shown = name in ("loss", "accuracy")
                self.log(f"val/{_TAGS.get(name, name)}", value.float(), prog_bar=shown, rank_zero_only=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect what validation collects."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        """Start afresh."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Report over the pairs of all ranks."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """Return implicit rewards, their margin and log-probabilities, for validation pairs in file order."""
        found = self._measured(self.score(batch))
        names = {"margin": "margin", "rewards/chosen": "reward_chosen", "rewards/rejected": "reward_rejected"}
        names |= {"logps/chosen": "logprob_chosen", "logps/rejected": "logprob_rejected"}
        rows = zip(*(found[name].tolist() for name in names), strict=True)
        return [dict(zip(names.values(), row, strict=True)) for row in rows]

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the policy as a folder for transformers."""
        tokenizer = load_tokenizer(self.source)
        keep_end_tokens(self.model, tokenizer)
        save_model(self.model, tokenizer, folder, merge=merge)


_MEANS = ("loss", *(f"{group}/{side}" for group in ("rewards", "logps", "moved") for side in ("chosen", "rejected")))
_TAGS = {f"moved/{side}": f"drift/{side}" for side in ("chosen", "rejected")}


def _accuracy(margin: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Score margins with the sign of their label 1, zero margins 1/2, and mask pairs that are no tie."""
    counted = has_winner(target)
    return agreement(margin, target) * counted, counted
