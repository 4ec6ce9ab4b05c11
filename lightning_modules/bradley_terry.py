"""Training of the scalar baseline: a Bradley-Terry reward model with the judge's data, budget and metrics."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.judge_validation import JudgeValidation
from prl.config import ModelSource, Optimization, check_length
from prl.data.encoding import ScalarPairEncoder
from prl.data.rows.records import PreferencePair
from prl.data.tokens import OnTooLong, tokenizer_hash
from prl.judge.bradley_terry import save_bradley_terry
from prl.models.limits import check_fits
from prl.models.loading import load_scalar_classifier, load_tokenizer
from prl.objectives.reward.bradley_terry import bradley_terry_loss
from prl.objectives.reward.pairwise import check_smoothing, smooth
from prl.rewards.scalar import scalar_rewards
from prl.types import Verdict


class BradleyTerryRewardModule(JudgeValidation):
    """A scalar reward per response, trained on the difference within a pair.

    Args:
        model: backbone that gets a scalar head on the last token.
        optimization: learning rate and schedule.
        label_smoothing: pulls targets towards 1/2.
        max_length: longest prompt and response, tokens.
        on_too_long: error, truncate or skip, with counts, for longer ones.
        passport_pairs: validation pairs, from the first, on which the finished judge is measured for its passport; 0
            writes none.

    Raises:
        ValueError: for a smoothing out of its range.
    """

    record_type = PreferencePair

    def __init__(
        self,
        model: ModelSource,
        optimization: Optimization = Optimization(learning_rate=1e-5),  # noqa: B008 - frozen
        label_smoothing: float = 0.0,
        max_length: int = 1024,
        on_too_long: OnTooLong = "truncate",
        passport_pairs: int = 200,
    ) -> None:
        super().__init__(passport_pairs)
        check_smoothing(label_smoothing)
        self.source, self.optimization, self.label_smoothing = model, optimization, label_smoothing
        check_length("max_length", max_length)
        self.max_length, self.on_too_long = max_length, on_too_long
        self.model: Any = None

    def build_encoder(self) -> ScalarPairEncoder:
        """Build the encoder of preference pairs; the data module calls this."""
        tokenizer = load_tokenizer(self.source)
        check_fits(self.source, tokenizer, self.max_length, role="model", setting="max_length")
        return ScalarPairEncoder(tokenizer, self.max_length, self.on_too_long)

    def configure_model(self) -> None:
        """Read or make the model; safe to call twice."""
        if self.model is None:
            with self.loading_models():
                model = load_scalar_classifier(self.source).train()
            self.model = self.shard(model)

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the length and the tokenizer; the exported folder holds both too."""
        return {"max_length": self.max_length, "tokenizer (hash)": tokenizer_hash(load_tokenizer(self.source))}

    def _rewards(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        chosen, rejected = scalar_rewards(self.model, batch["input_ids"], batch["attention_mask"]).chunk(2)
        return chosen, rejected

    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Subtract the two rewards, and state the difference in both orders."""
        chosen, rejected = self._rewards(batch)
        return Verdict(chosen - rejected, rejected - chosen)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair."""
        chosen, rejected = self._rewards(batch)
        losses = bradley_terry_loss(chosen, rejected, smooth(batch["targets"].float(), self.label_smoothing))
        loss, of_batch = self.mean_over_pairs(losses, batch)
        self.log("train/loss", of_batch, prog_bar=True)
        self.log_training((chosen - rejected).detach(), batch["targets"])
        return loss

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the model for AutoModelForSequenceClassification and `BradleyTerryJudge`."""
        save_bradley_terry(folder, self.model, load_tokenizer(self.source), self.max_length, merge=merge)
