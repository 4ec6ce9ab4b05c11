"""Training of the generative pairwise judge on both orders of each pair (docs/judge.md)."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.judge_validation import JudgeValidation, comparison_settings
from lightning_modules.reward_checks import check_judge_needs
from prl.config import ModelSource, Optimization
from prl.data.columns import numbers_of
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong
from prl.distributed import global_sum, world_size
from prl.judge.encoding import ComparisonEncoder
from prl.judge.files import save_judge
from prl.judge.template import JudgeTemplate
from prl.models.limits import check_fits
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.policy import model_inputs, token_logprobs, verdict_logits, verdict_margins
from prl.models.prefix_sharing.tree_attention import PrefixSharing, SharingMode, packed_logits, packed_text_logits
from prl.objectives.reward import PairBatch, Pairwise, RewardObjective
from prl.verdict import Verdict


class GenerativeRewardModule(JudgeValidation):
    """A language model that becomes a judge: its verdicts on both orders of each pair are trained on the labels.

    Args:
        model: causal language model that becomes the judge.
        template: how a comparison is put to it.
        optimization: learning rate and schedule.
        objective: what is learnt, a class of `prl.objectives.reward` or of your own with its settings; `Pairwise` with
            its defaults when null.
        order: both (two readings per pair in one batch) or random (one of them).
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
        ValueError: for a weight out of its range, a text term without both orders, or an objective that needs what the
            judge cannot give.
    """

    record_type = PreferencePair
    verdict_ids: Tensor

    def __init__(
        self,
        model: ModelSource,
        template: JudgeTemplate = JudgeTemplate(),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        objective: RewardObjective | None = None,
        order: Literal["both", "random"] = "both",
        text_coef: float = 0.0,
        max_length: int = 1024,
        on_too_long: OnTooLong = "truncate",
        passport_pairs: int = 200,
        fused: SharingMode = "auto",
    ) -> None:
        super().__init__(objective or Pairwise(), passport_pairs)
        check_judge_needs(self.objective, order)
        if not 0 <= text_coef < math.inf:
            raise ValueError(f"text_coef is {text_coef}; expected a finite number of at least 0, the term's weight")
        if text_coef and order != "both":
            raise ValueError(f"text_coef is {text_coef} with order: {order}; it needs order: both")
        self.source, self.template, self.optimization = model, template, optimization
        self.order, self.text_coef = order, text_coef
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
            settings = (self.max_length, self.on_too_long, pack_pairs, self.objective.columns)
            self.encoder = ComparisonEncoder(tokenizer, self.template, *settings)
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
        text_loss: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)
        if self.text_coef:
            logits, logprobs, counts = self._text_logits(batch)
            text_loss = self._text_loss(batch, logprobs, counts)
            pairs = self._both_orders(batch, logits)
        elif self.order == "both":
            pairs = self._both_orders(batch, self._verdict_logits(batch))
        else:
            pairs = self._random_order(batch)
        verdict_loss, of_batch = self.mean_loss(pairs, batch)
        self.log_training(pairs.chosen_margin().mean(0).detach(), batch["targets"])
        self.log("train/verdict_loss", of_batch)
        if self.order == "both":
            self.log("perf/saved_tokens", self.prefix_sharing.tokens.cached_token_fraction)
        self.log("train/loss", of_batch + text_loss[1], prog_bar=True)
        return verdict_loss + text_loss[0]

    def _text_loss(self, batch: dict[str, Tensor], logprobs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean over text tokens; see `means`."""
        total = -self.text_coef * (logprobs * counts).sum()
        return self.means(
            batch, lambda totals, batches: total * (world_size() * batches) / global_sum(totals["text"].sum())
        )

    def _both_orders(self, batch: dict[str, Tensor], logits: Tensor) -> PairBatch:
        """Build the pairs from the logits of all 2N readings, chosen first and then rejected first: [2N, V]."""
        chosen_first = torch.tensor([True, False], device=logits.device)[:, None]
        return self._pairs(batch, logits, chosen_first.expand(2, len(batch["targets"])))

    def _random_order(self, batch: dict[str, Tensor]) -> PairBatch:
        """Read each pair in one of its orders."""
        num_pairs, device = len(batch["targets"]), batch["targets"].device
        swapped = torch.rand(num_pairs) < 0.5  # on the CPU generator: the same draw on every kind of device
        rows = (torch.arange(num_pairs) + swapped * num_pairs).to(device)
        logits = verdict_logits(self.model, batch["input_ids"][rows], batch["attention_mask"][rows])
        return self._pairs(batch, logits, ~swapped.to(device)[None])

    def _pairs(self, batch: dict[str, Tensor], logits: Tensor, chosen_first: Tensor) -> PairBatch:
        margin = verdict_margins(logits, self.verdict_ids).view(chosen_first.shape)
        more = {}
        if self.objective.needs_logits:
            more = {"logits": logits.reshape(*chosen_first.shape, -1), "verdict_ids": self.verdict_ids}
        columns = numbers_of(batch, self.objective.columns)
        return PairBatch(margin, chosen_first, batch["targets"].float(), columns, **more)

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the template, its verdict tokens, the length and the tokenizer; the exported folder holds them too."""
        return comparison_settings(self.template, self.build_encoder(), self.max_length)

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the judge as a folder for transformers and `GenerativeJudge`."""
        encoder = self.build_encoder()
        save_judge(folder, self.model, encoder.tokenizer, encoder, merge=merge)
