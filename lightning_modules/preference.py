"""A policy that learns from preference pairs, by whichever objective: offline preference optimisation."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules import optimizers
from lightning_modules.drift import DriftMonitor
from lightning_modules.preference_checks import check_guides, check_needs, check_reference, critic_of
from lightning_modules.preference_scoring import PreferenceScoring
from lightning_modules.reference import REFERENCE, role_of
from prl.config import CriticSettings, ModelSource, Optimization, check_length
from prl.data.preference_encoding import PreferenceEncoder
from prl.data.reference_cache import ReferenceLogprobs
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong
from prl.distributed import gathered, global_sum
from prl.masking import weighted_mean
from prl.models.adapters import own_parameters
from prl.models.limits import check_fits, check_same_ids
from prl.models.loading import load_tokenizer, save_model
from prl.models.prefix_sharing.tree_attention import PrefixSharing, SharingMode
from prl.objectives.preference import DPO, PreferenceBatch, PreferenceObjective
from prl.rollouts.generate import keep_end_tokens
from prl.verdict import agreement, has_winner

log = logging.getLogger(__name__)


class PreferenceModule(PreferenceScoring):
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
        critic: kind, source and learning rate of the critic, for an objective that needs one; defaults when null.
        packed: read what responses of a pair share, their prompt, once: auto where it pays, on wherever it saves
            tokens, off never. The numbers do not change (docs/results/preference_speed.md).

    Raises:
        ValueError: for an objective that needs what pairs cannot have, or a reference, guide or critic that is not
            needed, or not there.
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
        critic: CriticSettings | None = None,
        packed: SharingMode = "auto",
    ) -> None:
        super().__init__()
        objective = objective or DPO()
        check_needs(objective)
        check_reference(objective, model, reference, reference_logprobs)
        check_guides(objective, guides or {})
        self.critic_settings = critic_of(objective, critic, model)
        self.source, self.reference_source, self.objective = model, reference, objective
        self.reference_logprobs, self.optimization = reference_logprobs, optimization
        check_length("max_length", max_length)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.critic_source = (critic.model if critic else None) or model
        self.model: Any = None
        self.heads: Any = None
        self.critic: Any = None
        self.reference: Any = None
        self.guide_sources: dict[str, ModelSource] = dict(guides or {})
        self.guides: Any = nn.ModuleDict()
        self.sharing = {name: PrefixSharing(packed, "packed") for name in ("model", REFERENCE, *self.guide_sources)}
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
        critic = None if self.critic_settings is None else self.critic_settings.model
        models = {"model": self.source, "critic": critic, REFERENCE: self.reference_source, **guides}
        for role, source in models.items():
            if source is not None:
                check_fits(source, tokenizer, self.max_length, role=role, setting="max_length")
        for name, source in self.guide_sources.items():
            check_same_ids(source, tokenizer, setting=f"guides.{name}")
        objective = self.objective
        reads = (objective.views, objective.columns, objective.probabilities, objective.lists)
        revised = (objective.revisions, objective.revision_prompt)
        return PreferenceEncoder(
            *(tokenizer, self.max_length, self.on_too_long, *reads, *revised),
            classes=objective.classes,
            step_separator=objective.step_separator,
        )

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule over the policy, its heads, and the critic with a learning rate of its own."""
        learning = [each for _, each in own_parameters(self.model)] + list(self.heads.parameters())
        return optimizers.configure(
            *(learning, self.optimization, self.trainer, self.critic),
            critic_learning_rate=None if self.critic_settings is None else self.critic_settings.learning_rate,
        )

    def _optimizer_settings(self) -> dict[str, float | None]:
        critic = self.critic_settings
        return {
            **super()._optimizer_settings(),
            **({} if critic is None else {"critic_learning_rate": critic.learning_rate}),
        }

    # ---- training

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

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each pair."""
        return {"weights": batch["weights"]}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair over all ranks and all batches of a step."""
        pairs = self.score(batch)
        losses, weights = self._losses(pairs), batch["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        self.log("perf/saved_tokens", self.sharing["model"].tokens.cached_token_fraction)
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
