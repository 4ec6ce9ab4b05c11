"""Supervised training: imitate demonstrations, with the loss on completions only."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.base import TrainingModule
from prl.config import ModelSource, Optimization, check_length
from prl.data.encoding import DemonstrationEncoder
from prl.data.rows.records import Demonstration
from prl.data.tokens import OnTooLong
from prl.distributed import global_sum, world_size
from prl.masking import masked_sum
from prl.models.limits import check_fits
from prl.models.loading import load_causal_lm, load_tokenizer, save_model
from prl.models.policy import model_inputs, token_logprobs
from prl.rollouts.generate import keep_end_tokens


class SupervisedModule(TrainingModule):
    """Next-token cross-entropy on completion tokens, averaged over the tokens of the batch.

    Args:
        model: the language model to train.
        optimization: learning rate and schedule.
        max_length: longest prompt and completion, tokens.
        on_too_long: error, truncate or skip, with counts, for longer rows.
    """

    record_type = Demonstration

    def __init__(
        self,
        model: ModelSource,
        optimization: Optimization = Optimization(learning_rate=2e-5),  # noqa: B008 - frozen
        max_length: int = 1024,
        on_too_long: OnTooLong = "error",
    ) -> None:
        super().__init__()
        self.source, self.optimization = model, optimization
        check_length("max_length", max_length)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.model: Any = None

    def build_encoder(self) -> DemonstrationEncoder:
        """Build the encoder of demonstrations; the data module calls this."""
        tokenizer = load_tokenizer(self.source)
        # Its last token is only predicted.
        check_fits(self.source, tokenizer, self.max_length - 1, role="model", setting="max_length (less one)")
        return DemonstrationEncoder(tokenizer, self.max_length, self.on_too_long)

    def configure_model(self) -> None:
        """Read or make the model; safe to call twice."""
        if self.model is None:
            with self.loading_models():
                model = load_causal_lm(self.source).train()
            self.model = self.shard(model)

    def _logprobs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities of completion tokens, and the mask of their positions: [B, S - 1] each."""
        inputs = model_inputs(batch["input_ids"][:, :-1], batch["attention_mask"][:, :-1])
        mask = batch["loss_mask"][:, 1:]
        return token_logprobs(self.model(**inputs).logits, batch["input_ids"][:, 1:], mask), mask

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logprobs, mask = self._logprobs(batch)
        return -masked_sum(logprobs, mask), mask.sum()

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count the completion tokens of each row."""
        return {"tokens": batch["loss_mask"][:, 1:].sum(1)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy per completion token over all ranks and all batches of a step."""
        total, count = self._loss(batch)
        self.log("train/loss", total.detach() / count, prog_bar=True)
        self.log("train/tokens", count.float(), reduce_fx="sum")
        totals, num_batches = self.whole_step(batch)
        # Gradients are averaged over ranks, and over the batches of a step.
        return total * (world_size() * num_batches) / global_sum(totals["tokens"].sum())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the mean cross-entropy of validation rows, weighted by tokens."""
        total, count = self._loss(batch)
        self.log("val/loss", total / count, batch_size=int(count), sync_dist=True, prog_bar=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log what validation logs."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """Return the log-likelihood of each completion in nats and its tokens, for validation rows in file order."""
        logprobs, mask = self._logprobs(batch)
        rows = zip(logprobs.sum(1).tolist(), mask.sum(1).tolist(), strict=True)
        return [{"logprob": logprob, "tokens": tokens} for logprob, tokens in rows]

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the trained model as a folder for transformers."""
        tokenizer = load_tokenizer(self.source)
        keep_end_tokens(self.model, tokenizer)
        save_model(self.model, tokenizer, folder, merge=merge)
