"""Training of the generative pairwise judge on both orders of each pair (docs/judge.md)."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.judge_validation import JudgeValidation
from prl.config import ModelSource, Optimization
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong, tokenizer_hash
from prl.distributed import global_sum, world_size
from prl.judge.encoding import ComparisonEncoder
from prl.judge.generative import save_judge
from prl.judge.prefix_sharing.tree_attention import FusedMode, PrefixSharing, packed_logits, packed_text_logits
from prl.judge.template import JudgeTemplate
from prl.models.limits import check_fits
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.policy import model_inputs, token_logprobs, verdict_logits, verdict_margins
from prl.objectives.reward.pairwise import (
    ConsistencyForm,
    check_smoothing,
    consistency_loss,
    pairwise_loss,
    smooth,
    verdict_language_loss,
    verdict_loss,
)
from prl.types import Verdict


class GenerativeRewardModule(JudgeValidation):
    """Cross-entropy of the verdict on both orders of each pair.

    Args:
        model: causal language model that becomes the judge.
        template: how a comparison is put to it.
        optimization: learning rate and schedule.
        order: both (two readings per pair in one batch) or random (one of them).
        label_smoothing: pulls targets towards 1/2.
        verdict_loss: cross-entropy of the verdict between its two tokens (two_tokens), or over the full_vocabulary,
            which also learns to say one of them. Either way a margin is read from the two.
        consistency_coef: weight c of the change by the order of the responses; needs order: both.
        consistency: measured as a probability, (p(w, l) + p(l, w) - 1)^2, or as log_odds, (z(w, l) + z(l, w))^2.
        language_coef: weight d of the cross-entropy over the whole vocabulary beside that between the two tokens.
        text_coef: weight of the next-token cross-entropy of the comparison from its first response on. It keeps
            the generative head in use while the verdict is learnt (text regularisation as in 2406.10216), and costs a
            vocabulary-sized row per token; needs order: both.
        max_length: longest comparison, tokens.
        on_too_long: error, truncate or skip, with counts, for longer ones.
        passport_pairs: validation pairs, from the first, on which the finished judge is measured for its passport; 0
            writes none.
        fused: compute what both orders of a pair share once: auto where it pays, on wherever it saves tokens, off
            never. The loss does not change (docs/results/fused.md).

    Raises:
        ValueError: for a weight or a smoothing out of its range, a term that needs both orders without them, or
            settings that say the same twice.
    """

    record_type = PreferencePair
    verdict_ids: Tensor

    def __init__(
        self,
        model: ModelSource,
        template: JudgeTemplate = JudgeTemplate(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        order: Literal["both", "random"] = "both",
        label_smoothing: float = 0.0,
        verdict_loss: Literal["two_tokens", "full_vocabulary"] = "two_tokens",
        consistency_coef: float = 0.0,
        consistency: ConsistencyForm = "probability",
        language_coef: float = 0.0,
        text_coef: float = 0.0,
        max_length: int = 1024,
        on_too_long: OnTooLong = "truncate",
        passport_pairs: int = 200,
        fused: FusedMode = "auto",
    ) -> None:
        super().__init__(passport_pairs)
        check_smoothing(label_smoothing)
        terms = {"consistency_coef": consistency_coef, "language_coef": language_coef, "text_coef": text_coef}
        if wrong := [name for name, value in terms.items() if not 0 <= value < math.inf]:
            raise ValueError(
                f"{wrong[0]} is {terms[wrong[0]]}; expected a finite number of at least 0, the term's weight"
            )
        for name, value in (("consistency_coef", consistency_coef), ("text_coef", text_coef)):
            if value and order != "both":
                raise ValueError(f"{name} is {value} with order: {order}; it needs order: both")
        two_tokens = verdict_loss == "two_tokens"
        if language_coef and not two_tokens:
            raise ValueError(
                f"language_coef is {language_coef} with verdict_loss: full_vocabulary, which is that term alone; set "
                "language_coef to 0, or verdict_loss to two_tokens"
            )
        self.source, self.template, self.optimization = model, template, optimization
        self.order, self.label_smoothing = order, label_smoothing
        self.verdict_coef, self.language_coef = (1.0, language_coef) if two_tokens else (0.0, 1.0)
        self.consistency_coef, self.consistency, self.text_coef = consistency_coef, consistency, text_coef
        self.max_length, self.on_too_long = max_length, on_too_long
        self.prefix_sharing = PrefixSharing(fused)
        self.model: Any = None
        self.encoder: ComparisonEncoder | None = None

    def build_encoder(self) -> ComparisonEncoder:
        """Build the encoder of comparisons; the data module calls this."""
        if self.encoder is None:
            tokenizer = load_tokenizer(self.source)
            check_fits(self.source, tokenizer, self.max_length, role="model", setting="max_length")
            pack_pairs = self.prefix_sharing.mode != "off"
            self.encoder = ComparisonEncoder(tokenizer, self.template, self.max_length, self.on_too_long, pack_pairs)
        return self.encoder

    def configure_model(self) -> None:
        """Read or make the model; safe to call twice."""
        if self.model is None:
            with self.loading_models():
                model = load_causal_lm(self.source).train()
            self.model = self.shard(model)
            self.register_buffer("verdict_ids", torch.tensor(self.build_encoder().verdict_ids), persistent=False)

    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Judge every pair in both orders, chosen as `a`."""
        return Verdict(*verdict_margins(self._verdict_logits(batch), self.verdict_ids).chunk(2))

    def _is_fused(self, batch: dict[str, Any]) -> bool:
        ids, mask, packed = batch["input_ids"], batch["attention_mask"], batch.get("packed")
        return packed is not None and self.prefix_sharing.should_pack(self.model, packed, ids, mask)

    def _verdict_logits(self, batch: dict[str, Any]) -> Tensor:
        """Compute the logits after all 2N readings of a batch, packed or padded, whichever costs less: [2N, V]."""
        if self._is_fused(batch):
            return packed_logits(self.model, batch["packed"])
        return verdict_logits(self.model, batch["input_ids"], batch["attention_mask"])

    def _text_logits(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute verdict logits [2N, V], token log-probabilities [rows, S], and each token's count as text."""
        mask, text_mask = batch["attention_mask"], batch["text_mask"]
        if self._is_fused(batch):
            counts = batch["packed"].num_readers((mask & ~text_mask).sum(1))
            return *packed_text_logits(self.model, batch["packed"]), counts
        logits = self.model(**model_inputs(batch["input_ids"], mask)).logits
        logprobs = token_logprobs(logits[:, :-1], batch["input_ids"][:, 1:], text_mask[:, 1:])
        return logits[:, -1].float(), logprobs, text_mask[:, 1:]  # left padded: the verdict slot is last in every row

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each pair, and the text tokens of each reading."""
        text = {"text": batch["text_mask"][:, 1:].sum(1)} if self.text_coef else {}
        return {**super().step_totals(batch), **text}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the mean loss per pair, weighted, plus the text term, which is per token."""
        targets = smooth(batch["targets"].float(), self.label_smoothing)
        is_both = self.order == "both"
        loss, of_batch = self._loss_of_both(batch, targets) if is_both else self._loss_of_one(batch, targets)
        self.log("train/loss", of_batch, prog_bar=True)
        return loss

    def _loss_of_both(self, batch: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss to learn from, and the loss of the batch alone to log."""
        text_loss: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)
        if self.text_coef:
            logits, logprobs, counts = self._text_logits(batch)
            total = -self.text_coef * (logprobs * counts).sum()
            text_loss = self.means(
                batch, lambda totals, batches: total * (world_size() * batches) / global_sum(totals["text"].sum())
            )
        else:
            logits = self._verdict_logits(batch)
        margin_wl, margin_lw = verdict_margins(logits, self.verdict_ids).chunk(2)
        loss = self.verdict_coef * pairwise_loss(margin_wl, margin_lw, targets)
        if self.consistency_coef:
            loss = loss + self.consistency_coef * consistency_loss(margin_wl, margin_lw, self.consistency)
        if self.language_coef:
            both = verdict_language_loss(logits, self.verdict_ids, torch.cat([targets, 1 - targets]))
            loss = loss + self.language_coef * (both[: len(loss)] + both[len(loss) :]) / 2
        self.log_training((margin_wl - margin_lw).detach() / 2, batch["targets"])
        verdict_loss_mean, of_batch = self.mean_over_pairs(loss, batch)
        self.log("train/verdict_loss", of_batch)
        self.log("perf/saved_tokens", self.prefix_sharing.tokens.cached_token_fraction)
        return verdict_loss_mean + text_loss[0], of_batch + text_loss[1]

    def _loss_of_one(self, batch: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        num_pairs = len(targets)
        swapped = torch.rand(num_pairs) < 0.5  # on the CPU generator: the same draw on every kind of device
        rows = (torch.arange(num_pairs) + swapped * num_pairs).to(targets.device)
        stated = torch.where(swapped.to(targets.device), 1 - targets, targets)
        logits = verdict_logits(self.model, batch["input_ids"][rows], batch["attention_mask"][rows])
        margin = verdict_margins(logits, self.verdict_ids)
        loss = self.verdict_coef * verdict_loss(margin, stated)
        if self.language_coef:
            loss = loss + self.language_coef * verdict_language_loss(logits, self.verdict_ids, stated)
        self.log_training(torch.where(swapped.to(targets.device), -margin, margin).detach(), batch["targets"])
        verdict_loss_mean, of_batch = self.mean_over_pairs(loss, batch)
        self.log("train/verdict_loss", of_batch)
        return verdict_loss_mean, of_batch

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the template, its verdict tokens, the length and the tokenizer; the exported folder holds them too."""
        encoder = self.build_encoder()
        template = {f"template.{name}": value for name, value in asdict(self.template).items()}
        return {
            **template,
            "template.verdicts": list(self.template.verdicts),
            "verdict tokens": list(encoder.verdict_ids),
            "max_length": self.max_length,
            "tokenizer (hash)": tokenizer_hash(encoder.tokenizer),
        }

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the judge as a folder for transformers and `GenerativeJudge`."""
        encoder = self.build_encoder()
        save_judge(folder, self.model, encoder.tokenizer, encoder, merge=merge)
