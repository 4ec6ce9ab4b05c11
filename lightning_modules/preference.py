"""A policy that learns from preference pairs, by whichever objective: offline preference optimisation."""

from pathlib import Path
from typing import Any, Literal

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
from prl.models.adapters import own_parameters
from prl.models.limits import check_fits, check_same_ids
from prl.models.loading import load_tokenizer, save_model
from prl.models.prefix_sharing.tree_attention import PrefixSharing, SharingMode
from prl.objectives.preference import DPO, PreferenceObjective
from prl.rollouts.generate import keep_end_tokens


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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair over all ranks and all batches of a step."""
        loss = super().training_step(batch, batch_idx)
        self.log("perf/saved_tokens", self.sharing["model"].tokens.cached_token_fraction)
        return loss

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the policy as a folder for transformers."""
        tokenizer = load_tokenizer(self.source)
        keep_end_tokens(self.model, tokenizer)
        save_model(self.model, tokenizer, folder, merge=merge)
