"""The models of a preference run, and what they say of a batch: the policy, its heads and critic, frozen models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.pair_training import PairTraining
from lightning_modules.preference_checks import check_steps
from lightning_modules.reference import REFERENCE, cached_reference, reference_logprobs, role_of
from prl.checkpoints.position import is_dry_run
from prl.config import CriticSettings, ModelSource
from prl.data.columns import numbers_of
from prl.data.preference_encoding import COUNT
from prl.data.reference_cache import ReferenceLogprobs
from prl.models.adapters import add_adapters, is_adapted, without_adapters
from prl.models.critic import AdapterCritic, LinearHead, ValueHead, build_critic, hidden_size
from prl.models.loading import freeze, load_causal_lm
from prl.models.logprobs import completion_mask, placed_values
from prl.models.prefix_sharing.completions import read_shared_completions
from prl.models.prefix_sharing.tree_attention import PrefixSharing
from prl.models.token_kl import base_head, check_heads, token_kl
from prl.objectives.preference import PreferenceBatch, ScoredResponses
from prl.objectives.preference.base import STATES
from prl.run_folder.inputs import Inputs, model_inputs

_INPUTS = ("input_ids", "attention_mask", "loss_mask")


class PreferenceScoring(PairTraining):
    """Policy with the heads, the critic and the frozen models of its objective, and what they say of batches."""

    source: ModelSource
    reference_source: ModelSource | None
    guide_sources: dict[str, ModelSource]
    sharing: dict[str, PrefixSharing]
    critic_settings: CriticSettings | None
    critic_source: ModelSource
    reference_logprobs: Literal["live", "cached"]
    heads: Any
    critic: Any
    reference: Any
    guides: Any
    _cached: dict[tuple[str, str], ReferenceLogprobs]

    # ---- models

    def configure_model(self) -> None:
        """Read or make the policy, and the frozen models that the objective needs; safe to call twice."""
        if self.model is not None:
            return
        with self.loading_models():
            self.configure_export()
            heads = {name: LinearHead(hidden_size(self.model), n) for name, n in self.objective.heads.items()}
            kept = self.critic_settings
            critic = None if kept is None else build_critic(kept, self.model, self.critic_source)
        self.heads = nn.ModuleDict({name: self.shard(head) for name, head in heads.items()})
        self.critic = None if critic is None else self.shard(critic)
        self.model = self.shard(self.model)
        if self.objective.needs_reference and (self.reference_source is not None or not is_adapted(self.model)):
            with self.loading_models():
                reference = freeze(load_causal_lm(self.reference_source or self.source))
            self.reference = self.shard(reference)
        for name, source in self.guide_sources.items():
            with self.loading_models():
                guide = freeze(load_causal_lm(source))
            self.guides[name] = self.shard(guide)
        if self.objective.needs_kl:
            check_heads(self.model, self.reference or self.model)

    def configure_export(self) -> None:
        """Read the policy alone, with all its adapters in a checkpoint."""
        self.model = load_causal_lm(self.source).train()
        if self.critic_settings is not None and self.critic_settings.kind == "adapter":
            add_adapters(self.model, AdapterCritic.NAME)

    def on_fit_start(self) -> None:
        """Look for steps; have the frozen models read all pairs, where they are to do so once, and let go of them."""
        check_steps(self.objective, self.trainer)
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
                        sharing=self.sharing[name],
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
        reference = self._reference_states(batch) if self.objective.needs_kl else None
        read = [name for name in self.frozen_sources() if reference is None or name != REFERENCE]
        frozen = {name: self._frozen_logprobs(name, batch) for name in read}
        if reference is not None:
            frozen[REFERENCE] = reference[0]
        logprobs, mask, hidden = self._read_policy(batch)
        states: dict[str, Any] = {} if hidden is None else self._of_states(batch, mask, hidden, reference)
        if self.objective.step_separator is not None:
            numbers = batch["steps"][batch["loss_mask"]]
            states["steps"] = numbers.new_zeros(mask.shape).masked_scatter(mask, numbers)
        lists = self.objective.lists
        sizes = dict.fromkeys([*self.objective.views, *self.objective.revisions], len(batch["targets"]))
        sizes |= {name: int(batch[COUNT + name].sum()) for name in lists}
        start, views = 0, {}
        for name, size in sizes.items():
            rows, start = slice(start, start + size), start + size
            others = {model: found[rows] for model, found in frozen.items()}
            responses = ScoredResponses(
                *(logprobs[rows], mask[rows], others.pop(REFERENCE, None), others),
                outputs={head: states[head][rows] for head in self.objective.heads},
                **{each: states[each][rows] for each in STATES if each in states},
            )
            views[name] = responses.of_lists(batch[COUNT + name]) if name in lists else responses
        columns = [*self.objective.columns, *(column for some in lists.values() for column in some)]
        return PreferenceBatch(views, batch["targets"], numbers_of(batch, columns))

    def _read_policy(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute log-probabilities, their mask, and, where something reads them, hidden states: [N, T], [N, T, D]."""
        inputs, needs = [batch[name] for name in (*_INPUTS, "pairs")], self.objective
        with_hidden = bool(needs.heads or needs.needs_hidden or needs.needs_critic or needs.needs_kl)
        return read_shared_completions(self.model, self.sharing["model"], *inputs, with_hidden=with_hidden)

    def _of_states(
        self, batch: dict[str, Tensor], mask: Tensor, hidden: Tensor, reference: tuple[Tensor, Tensor] | None
    ) -> dict[str, Tensor]:
        """Compute what the objective reads of the policy's states, by name: [N, T] or [N, T, ...]."""
        found = {name: head(hidden) for name, head in self.heads.items()}
        if self.objective.needs_hidden:
            found["hidden"] = hidden
        if isinstance(self.critic, ValueHead):
            found["values"] = self.critic(hidden).masked_fill(~mask, 0)
        elif self.critic is not None:
            ids, attention, loss_mask = (batch[name] for name in _INPUTS)
            values = self.critic(ids, attention, ids.shape[1] - 1)
            found["values"] = placed_values(values[loss_mask[:, 1:]], mask)
        if reference is not None:
            model = self.reference or self.model
            check_heads(self.model, model)  # they have been tried by now
            heads = self.model.get_output_embeddings(), base_head(model)
            found["kl"] = token_kl(heads[0], hidden, heads[1], reference[1], mask)
            if not torch.is_grad_enabled():
                self._let_go_of_reference_head()
        return found

    def _reference_states(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Read all responses under the reference in one pass: log-probabilities [N, T], hidden states [N, T, D]."""
        inputs = [batch[name] for name in (*_INPUTS, "pairs")]
        with self._frozen(REFERENCE, keeps_head=True) as model, torch.no_grad():  # packed as the policy's pass is
            found = read_shared_completions(model, self.sharing[REFERENCE], *inputs, with_hidden=True)
        assert found.hidden is not None
        return found.logprobs, found.hidden

    def on_after_backward(self) -> None:
        """Let go of the reference's head, which the backward pass of an exact KL reads again."""
        if self.objective.needs_kl:
            self._let_go_of_reference_head()

    def _let_go_of_reference_head(self) -> None:
        if self.reference is not None:
            self.sharding.reshard_frozen(self.reference)

    def _frozen_logprobs(self, name: str, batch: dict[str, Tensor]) -> Tensor:
        side = "train" if self._trainer is not None and self.trainer.training else "validation"
        if (name, side) in self._cached and "index" in batch:
            return self._cached[name, side].of(batch["index"], batch["pairs"], completion_mask(batch["loss_mask"]))
        with self._frozen(name) as model:
            return reference_logprobs(model, batch, self.sharding, self.sharing[name])

    @contextmanager
    def _frozen(self, name: str, *, keeps_head: bool = False) -> Iterator[Any]:
        """Yield a frozen model, ready to read: one of its own, or as reference the policy with its adapters off.

        With `keeps_head` the language head of a model of its own stays ready behind the block.
        """
        frozen = self.reference if name == REFERENCE else dict(self.guides).get(name)
        if frozen is not None:
            yield frozen
            if not keeps_head:
                self.sharding.reshard_frozen(frozen)  # no backward pass brings its shards back
            return
        if name != REFERENCE or not is_adapted(self.model):
            raise ValueError(f"the {role_of(name)} has been let go of, and these rows are in no cache; start with live")
        with without_adapters(self.model):
            yield self.model
        self.sharding.reshard(self.model)
