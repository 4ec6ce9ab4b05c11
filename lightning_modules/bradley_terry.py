"""Training of the scalar baseline: a Bradley-Terry reward model with the judge's data, budget and metrics."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.judge_validation import JudgeValidation
from lightning_modules.look_ahead import LookAhead, check_look_ahead, read_unlabelled
from lightning_modules.reward_checks import check_optional, check_passes, check_scalar_needs
from prl.config import ModelSource, Optimization, check_length
from prl.data import DataSource
from prl.data.columns import numbers_of
from prl.data.encoding import ScalarPairEncoder
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong, tokenizer_hash
from prl.data.traces import TracePairEncoder
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.general_preference import save_general_preference
from prl.models.critic import hidden_size
from prl.models.dropout import using_dropout
from prl.models.language_scorer import load_language_scorer, read_rows
from prl.models.limits import check_fits
from prl.models.loading import load_scalar_classifier, load_tokenizer
from prl.objectives.reward import BradleyTerry, PairBatch, RewardObjective
from prl.rewards.scalar import end_states, head_rewards, weighted_reward
from prl.rewards.tool_reward import save_tool_reward
from prl.run_folder.inputs import Inputs
from prl.verdict import Verdict


class BradleyTerryRewardModule(JudgeValidation):
    """A scalar reward per response, or an embedding, trained on pairs.

    Args:
        model: backbone that gets a scalar head on the last token.
        optimization: learning rate and schedule.
        objective: what is learnt, a class of `prl.objectives.reward` or of your own with its settings; `BradleyTerry`
            with its defaults when null.
        max_length: longest prompt and response, tokens.
        on_too_long: error, truncate or skip, with counts, for longer ones.
        passport_pairs: validation pairs, from the first, on which the finished judge is measured for its passport; 0
            writes none.
        unlabelled: prompts with several responses each in the column `responses`, for an objective that looks ahead,
            such as `MetaRM`; null for others.

    Raises:
        ValueError: for an objective that needs what a scalar model cannot give, or what is not set.
    """

    record_type = PreferencePair

    def __init__(
        self,
        model: ModelSource,
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        objective: RewardObjective | None = None,
        max_length: int = 1024,
        on_too_long: OnTooLong = "truncate",
        passport_pairs: int = 200,
        unlabelled: DataSource | None = None,
    ) -> None:
        super().__init__(objective or BradleyTerry(), passport_pairs)
        check_scalar_needs(self.objective)
        check_passes(self.objective, model, unlabelled)
        self.head_weights, self.operator = self.objective.head_weights or (1.0,), self.objective.operator
        self.num_outputs = len(self.head_weights) if self.operator is None else self.operator.outputs
        self.source, self.optimization = model, optimization
        check_length("max_length", max_length)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.model: Any = None
        self.unlabelled = unlabelled
        self.look_ahead: LookAhead | None = None
        self._unlabelled_hash: str | None = None

    def setup(self, stage: str) -> None:
        """Read the unlabelled responses of an objective that looks ahead, before the model. Raises ValueError."""
        super().setup(stage)
        if stage == "fit" and self.unlabelled is not None:
            check_look_ahead(self.trainer, self.sharding)
            encoder = self.build_encoder()
            prompts, self._unlabelled_hash = read_unlabelled(self.unlabelled, encoder)
            pad_id = int(encoder.tokenizer.pad_token_id)
            self.look_ahead = LookAhead(self.objective, prompts, pad_id, self.head_weights)

    def inputs(self) -> Inputs:
        """Hash the folder of the model, and the unlabelled responses."""
        unlabelled: Inputs = {"model.unlabelled": self._unlabelled_hash and self._unlabelled_hash[:32]}
        return {**super().inputs(), **(unlabelled if self.unlabelled is not None else {})}

    def build_encoder(self) -> ScalarPairEncoder:
        """Build the encoder of preference pairs; the data module calls this."""
        tokenizer = load_tokenizer(self.source)
        check_fits(self.source, tokenizer, self.max_length, role="model", setting="max_length")
        if self.objective.needs_traces:
            reads = (self.objective.columns, self.objective.learns_observations)
            return TracePairEncoder(tokenizer, self.max_length, self.on_too_long, *reads)
        columns = (self.objective.columns, self.objective.optional_columns)
        return ScalarPairEncoder(tokenizer, self.max_length, self.on_too_long, *columns, prompts=self._reads_prompts)

    def configure_model(self) -> None:
        """Read or make the model; safe to call twice."""
        if self.model is None:
            with self.loading_models():
                embeds = self.operator is not None
                if self.objective.needs_traces:
                    model: Any = load_language_scorer(self.source)
                else:
                    model = load_scalar_classifier(self.source, heads=self.num_outputs, small_head=embeds)
            self.model = self.shard(model.train())

    def on_fit_start(self) -> None:
        """Refuse an optional column that no training row has: its name may be wrong."""
        trainer: Any = self.trainer
        if self.objective.optional_columns and "train" in (rows := getattr(trainer.datamodule, "rows", {})):
            check_optional(self.objective, rows["train"])

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the length and the tokenizer; the exported folder holds both too."""
        return {"max_length": self.max_length, "tokenizer (hash)": tokenizer_hash(load_tokenizer(self.source))}

    @property
    def _reads_prompts(self) -> bool:
        return self.operator is not None and self.operator.prompt_head

    def _rewards(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute what the heads say of chosen and of rejected, [N, H] each, and of the blocks of an operator."""
        outputs = head_rewards(self.model, batch["input_ids"], batch["attention_mask"])
        if self.operator is None or not self._reads_prompts:
            chosen, rejected = outputs.chunk(2)
            return chosen, rejected, None
        chosen, rejected, prompts = outputs.chunk(3)
        return chosen, rejected, self.operator.blocks(prompts, hidden_size(self.model))

    def _margin(self, chosen: Tensor, rejected: Tensor, blocks: Tensor | None) -> Tensor:
        """Subtract the two rewards, or compare the two embeddings: [N]."""
        if self.operator is not None:
            return self.operator.margin(chosen, rejected, blocks)
        return weighted_reward(chosen, self.head_weights) - weighted_reward(rejected, self.head_weights)

    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Compute the margin of each pair, and state it in both orders."""
        margin = self._margin(*self._rewards(batch))
        return Verdict(margin, -margin)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair, where an objective that looks ahead has moved the weights to."""
        if self.look_ahead is not None:
            step = 0 if self._trainer is None else self.trainer.global_step
            self.log("train/ascended", self.look_ahead.ascend(self.model, step))
        pairs = self._pairs(batch)
        loss, of_batch = self.mean_loss(pairs, batch)
        self.log("train/loss", of_batch, prog_bar=True)
        self.log_training(pairs.margin[0].detach(), batch["targets"])
        return loss

    def on_after_backward(self) -> None:
        """Put the weights back from a look ahead, before a step is taken from them."""
        if self.look_ahead is not None:
            self.look_ahead.go_back()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save as every module does, and never weights of a look ahead."""
        self.on_after_backward()
        super().on_save_checkpoint(checkpoint)

    def _states(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the hidden states at the ends of chosen and of rejected in each pass with dropout: [P, N, D]."""
        rows = 2 * len(batch["targets"])
        inputs = batch["input_ids"][:rows], batch["attention_mask"][:rows]
        with using_dropout(self.model, self.objective.dropout):
            passes = [end_states(self.model, *inputs) for _ in range(self.objective.dropout_passes)]
        chosen, rejected = torch.stack(passes).chunk(2, dim=1)
        return {"chosen_states": chosen, "rejected_states": rejected}

    def _pairs(self, batch: dict[str, Tensor]) -> PairBatch:
        if self.objective.needs_traces:
            return self._pairs_with_traces(batch)
        chosen, rejected, blocks = self._rewards(batch)
        margin = self._margin(chosen, rejected, blocks)[None]
        heads: dict[str, Any] = {}
        if self.objective.head_weights or self.operator is not None:
            heads = {"chosen_rewards": chosen, "rejected_rewards": rejected, "prompt_blocks": blocks}
        if self.objective.dropout_passes:
            heads |= self._states(batch)
        columns = numbers_of(batch, [*self.objective.columns, *self.objective.optional_columns])
        return PairBatch(margin, torch.ones_like(margin, dtype=torch.bool), batch["targets"].float(), columns, **heads)

    def _pairs_with_traces(self, batch: dict[str, Tensor]) -> PairBatch:
        scores, nll = read_rows(self.model, batch["input_ids"], batch["attention_mask"], batch["learnt"])
        chosen, rejected = scores.float().chunk(2)
        margin = self._margin(chosen, rejected, None)[None]
        assert nll is not None
        self.log("train/trace_nll", (trace_nll := torch.stack(nll.chunk(2)).mean(0)).detach().mean())
        first, columns = torch.ones_like(margin, dtype=torch.bool), numbers_of(batch, self.objective.columns)
        return PairBatch(margin, first, batch["targets"].float(), columns, trace_nll=trace_nll)

    def after_export(self, folder: Path) -> None:
        """Measure the judge that was just written; not one that calls tools, which are settings of `ToolReward`."""
        if not self.objective.needs_traces:
            super().after_export(folder)

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the model for AutoModelForSequenceClassification and the judge of its kind."""
        tokenizer = load_tokenizer(self.source)
        if self.objective.needs_traces:
            save_tool_reward(folder, self.model, tokenizer, self.max_length, merge=merge)
            return
        if self.operator is not None:
            written = (folder, self.model, tokenizer, self.max_length)
            save_general_preference(*written, operator=self.operator, merge=merge)
            return
        heads: dict[str, Any] = {"head_weights": self.head_weights, "head_names": self.objective.head_names}
        save_bradley_terry(folder, self.model, tokenizer, self.max_length, merge=merge, **heads)
