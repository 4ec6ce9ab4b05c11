"""Training of a generative judge that reasons before its verdict (docs/reasoning.md)."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.judge_validation import JudgeValidation, comparison_settings
from lightning_modules.reward_checks import check_judge_needs
from prl.config import ModelSource, Optimization, Reasoning
from prl.data.columns import numbers_of
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong
from prl.diffusion.draws import seed_of_run
from prl.judge.batched import batched_margins
from prl.judge.critiques import CritiqueEncoder, critiques_of
from prl.judge.encoding import ComparisonEncoder
from prl.judge.files import save_judge
from prl.judge.reasoning import Reasoner, name_of, thought_outputs
from prl.judge.reasoning_encoding import reasoning_encoder
from prl.judge.template import REASONING_TEXT, JudgeTemplate
from prl.kl import token_kl
from prl.masking import weighted_mean
from prl.models.adapters import is_adapted, without_adapters
from prl.models.loading import freeze, load_causal_lm, load_tokenizer
from prl.models.policy import verdict_margins
from prl.objectives.logistic import soft_logistic
from prl.objectives.reward import METHODS, PairBatch, Pairwise, RewardObjective
from prl.verdict import Verdict, mean_margin


class ReasoningRewardModule(JudgeValidation):
    """A language model that becomes a judge which thinks before its verdicts, from labels, critiques, or both.

    Behind each reading of a pair thoughts are sampled, and the objective learns from them and the verdicts after them.
    Critiques of the data, in the column `critique`, are learnt as the thoughts to have. A validation judges as the
    finished judge will.

    Args:
        model: causal language model that becomes the judge.
        reasoning: thoughts of the finished judge and of validations; in training its `samples` is `thoughts`.
        template: how a comparison is put to it; its question should ask for reasons.
        optimization: learning rate and schedule.
        objective: what is learnt, a class of `prl.objectives.reward` with its settings; when null `ThoughtLikelihood`,
            and `Pairwise` where `thoughts` is 0.
        thoughts: thoughts sampled behind each reading in training. With 0 none are: the verdict of a reading is learnt
            after its critique, or after an empty thought where it has none.
        kl_coef: weight of the KL of the thoughts to those of the model at the start: a second copy of it, or its base
            under LoRA. Learning verdicts changes thoughts too: without it, a small model may forget how to think before
            verdicts have learnt to read it. It needs thoughts that are sampled, and a start that can be read again.
        critique_coef: weight of the mean next-token cross-entropy of critiques; with `thoughts` also of the verdict's
            after them.
        order: both (two readings of each pair in one batch) or random (one of them).
        max_length: longest comparison without its thought, tokens.
        on_too_long: error, truncate or skip, with counts, for longer ones.
        passport_pairs: validation pairs, from the first, on which the finished judge is measured for its passport; 0
            writes none.
        max_batch_tokens: padded tokens of one batch of sampling, and of a pass of validation.

    Raises:
        ValueError: for a number below 0, thoughts of temperature 0, a KL without thoughts or to random weights, or an
            objective that needs what the judge cannot give.
    """

    record_type = PreferencePair
    verdict_ids: Tensor

    def __init__(
        self,
        model: ModelSource,
        reasoning: Reasoning = Reasoning(),  # noqa: B008 - frozen
        template: JudgeTemplate = JudgeTemplate(REASONING_TEXT),  # noqa: B008 - frozen
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        objective: RewardObjective | None = None,
        thoughts: int = 4,
        kl_coef: float = 0.0,
        critique_coef: float = 1.0,
        order: Literal["both", "random"] = "both",
        max_length: int = 1024,
        on_too_long: OnTooLong = "truncate",
        passport_pairs: int = 200,
        max_batch_tokens: int = 16384,
    ) -> None:
        default = METHODS["ThoughtLikelihood"] if thoughts else Pairwise
        super().__init__(objective or default(), passport_pairs)
        for name, number in (("thoughts", thoughts), ("kl_coef", kl_coef), ("critique_coef", critique_coef)):
            if not 0 <= number < float("inf"):
                raise ValueError(f"{name} is {number}; expected a finite number of at least 0")
        if thoughts and not reasoning.temperature:
            raise ValueError("reasoning.temperature is 0, and thoughts that are learnt from are sampled; raise it")
        _check_kl(kl_coef, thoughts, model)
        check_judge_needs(self.objective, order, thoughts)
        if self.objective.needs_logits:
            raise ValueError(
                f"objective: {type(self.objective).__name__} reads logits of the verdict, which a judge that reasons "
                "does not give; set language_coef to 0, or use GenerativeRewardModule"
            )
        self.source, self.reasoning, self.template, self.optimization = model, reasoning, template, optimization
        self.thoughts, self.kl_coef, self.critique_coef, self.order = thoughts, kl_coef, critique_coef, order
        self.max_length, self.on_too_long, self.max_batch_tokens = max_length, on_too_long, max_batch_tokens
        self.model: Any = None
        self.reference: Any = None
        self.encoder: ComparisonEncoder | None = None

    def build_encoder(self) -> ComparisonEncoder:
        """Build the encoder of comparisons and critiques; the data module calls this."""
        if self.encoder is None:
            self.encoder = reasoning_encoder(
                self.source,
                load_tokenizer(self.source),
                self.template,
                self.max_length,
                self.reasoning,
                role="model",
                kind=CritiqueEncoder,
                max_tokens=self.reasoning.max_tokens,
                on_too_long=self.on_too_long,
                columns=self.objective.columns,
            )
        return self.encoder

    def setup(self, stage: str) -> None:
        """Refuse shards of weights, from which nothing is sampled, before a model is read. Raises ValueError."""
        super().setup(stage)
        if self.sharding.cuts_weights:
            raise ValueError(
                f"ReasoningRewardModule samples from whole weights, which {type(self.trainer.strategy).__name__} cuts; "
                "use trainer.strategy auto or ddp"
            )

    def configure_model(self) -> None:
        """Read or make the model; safe to call twice."""
        if self.model is None:
            encoder = self.build_encoder()
            with self.loading_models():
                model = load_causal_lm(self.source).train()
                if self.kl_coef and self.thoughts and not is_adapted(model):
                    self.reference = freeze(load_causal_lm(self.source))
            self.model = self.shard(model)
            self.register_buffer("verdict_ids", torch.tensor(encoder.verdict_ids), persistent=False)
            self.reasoner = Reasoner(self.reasoning, model, encoder.tokenizer, encoder.compiled)

    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Judge every pair in both orders as the finished judge does, chosen as `a`."""

        def read(whole: list[list[int]]) -> Tensor:
            return batched_margins(self.model, whole, self.build_encoder(), self.max_batch_tokens)

        readings = _readings(batch, torch.arange(len(batch["input_ids"])))
        names = list(range(len(readings)))
        margins = self.reasoner.margins(self.model, names, readings, read, self.max_batch_tokens)
        return Verdict(*margins.chunk(2))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the mean loss per pair, weighted."""
        rows, chosen_first = self._chosen_rows(batch)
        pairs, further = self._sampled(batch, rows, chosen_first) if self.thoughts else (None, 0.0)
        critiques = critiques_of(batch, rows)
        if pairs is None or (self.critique_coef and any(critiques)):
            after, learnt = self._supervised(batch, rows, critiques, chosen_first)
            pairs, further = pairs or after, further + learnt
        losses = self.objective.loss(pairs) + further
        if tuple(losses.shape) != (len(pairs),):
            raise ValueError(
                f"{type(self.objective).__name__}.loss gave shape {tuple(losses.shape)}; expected one loss for each of "
                f"{len(pairs)} pairs"
            )
        weights = batch["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log_training(pairs.chosen_margin().mean(0).detach(), batch["targets"])
        self.log("train/loss", of_batch, prog_bar=True)
        return loss

    def _chosen_rows(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Choose the readings of a step: their numbers [R * B], and [R, B] whether chosen is shown first.

        One order is drawn by the name of its pair, as thoughts are, so that two processes read what one would.
        """
        count = len(batch["targets"])
        if self.order == "both":
            first = torch.tensor([[True], [False]]).expand(2, count)
            return torch.arange(2 * count), first
        seed, pairs = self._seed_of_step(), _readings(batch, torch.arange(count))
        swapped = torch.tensor([Random(name_of(seed, pair, 0)).random() < 0.5 for pair in pairs])
        return torch.arange(count) + swapped * count, ~swapped[None]

    def _seed_of_step(self) -> str:
        return f"{seed_of_run()} {self.reasoning.seed} {0 if self._trainer is None else self.trainer.global_step}"

    def _sampled(
        self, batch: dict[str, Tensor], rows: Tensor, chosen_first: Tensor
    ) -> tuple[PairBatch, Tensor | float]:
        """Sample thoughts, by names of this step and the readings, and read them with gradients; with the KL's part."""
        readings = _readings(batch, rows)
        asked = {"samples": self.thoughts, "seed": self._seed_of_step()}
        found = self.reasoner.think(self.model, readings, self.max_batch_tokens, **asked)  # type: ignore[arg-type]
        repeated = [reading for reading in readings for _ in range(self.thoughts)]
        thoughts = [t.with_end for t in found], [t.end is not None for t in found]
        logits, of_tokens = thought_outputs(self.model, repeated, *thoughts, self.reasoner)
        logprobs = of_tokens.sum(1)
        shape = (*chosen_first.shape, self.thoughts)
        margins = verdict_margins(logits, self.verdict_ids)
        margins, logprobs = (each.view(shape).permute(2, 0, 1) for each in (margins, logprobs))
        tokens = sum(thought.num_tokens for thought in found)
        self.log("perf/thought_tokens", tokens / len(found))
        self.log("train/unfinished_thoughts", sum(thought.end is None for thought in found) / len(found))
        self.log("train/thought_entropy", -float(logprobs.detach().sum()) / max(tokens, 1))
        mean = mean_margin(margins.movedim(0, -1))
        pairs = self._pairs(batch, mean, chosen_first)
        pairs = replace(pairs, thought_margins=margins, thought_logprobs=logprobs)
        if not self.kl_coef:
            return pairs, 0.0
        reference = self.model if self.reference is None else self.reference
        with torch.no_grad(), without_adapters(reference) if self.reference is None else nullcontext():
            _, at_start = thought_outputs(reference, repeated, *thoughts, self.reasoner)
        # As a loss, k2 has the gradient of the KL of each token.
        kl = token_kl(of_tokens, at_start, "k2").sum(1)
        self.log("train/thought_kl", float((of_tokens - at_start).detach().sum(1).mean()))
        return pairs, self.kl_coef * kl.view(shape).mean(2).mean(0)

    def _supervised(
        self, batch: dict[str, Tensor], rows: Tensor, critiques: list[list[int]], chosen_first: Tensor
    ) -> tuple[PairBatch, Tensor]:
        """Read pairs after their critiques, and compute what critiques add to the loss of each pair: [B]."""
        ended = [bool(each) for each in critiques]
        logits, logprobs = thought_outputs(self.model, _readings(batch, rows), critiques, ended, self.reasoner)
        lengths = torch.tensor([max(len(each), 1) for each in critiques], device=logprobs.device)
        pairs = self._pairs(batch, verdict_margins(logits, self.verdict_ids).view(chosen_first.shape), chosen_first)
        further = -logprobs.sum(1) / lengths
        if self.thoughts:
            further = further + soft_logistic(pairs.margin, pairs.of_first(pairs.target)).flatten()
        told = torch.tensor(ended, device=further.device)
        return pairs, self.critique_coef * (further * told).view(chosen_first.shape).mean(0)

    def _pairs(self, batch: dict[str, Tensor], margin: Tensor, chosen_first: Tensor) -> PairBatch:
        columns = numbers_of(batch, self.objective.columns)
        return PairBatch(margin, chosen_first.to(margin.device), batch["targets"].float(), columns)

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return template, verdict tokens, lengths, closing and tokenizer; the exported folder holds them too."""
        return {
            **comparison_settings(self.template, self.build_encoder(), self.max_length),
            "reasoning.max_tokens": self.reasoning.max_tokens,
            "reasoning.closing": self.reasoning.closing,
        }

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the judge as a folder for transformers and `GenerativeJudge`."""
        encoder = self.build_encoder()
        save_judge(folder, self.model, encoder.tokenizer, encoder, merge=merge, reasoning=self.reasoning)


def _check_kl(kl_coef: float, thoughts: int, model: ModelSource) -> None:
    """Refuse a KL of thoughts that are not sampled, and one to a start that cannot be read again. Raises ValueError."""
    if kl_coef and not thoughts:
        raise ValueError(
            f"kl_coef is {kl_coef}, the weight of the KL of sampled thoughts, but thoughts is 0; set kl_coef to 0"
        )
    if kl_coef and model.path is None:
        raise ValueError(
            f"kl_coef is {kl_coef}, but the model has random weights (config), so there is no start to read; use path, "
            "or set kl_coef to 0"
        )


def _readings(batch: dict[str, Tensor], rows: Tensor) -> list[list[int]]:
    """Take readings out of a padded batch, as token ids without padding."""
    both = zip(batch["input_ids"][rows], batch["attention_mask"][rows], strict=True)
    return [ids[mask].tolist() for ids, mask in both]
