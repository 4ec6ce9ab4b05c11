"""Training of a vision-language model that answers Yes or No to a question about pictures (PaCo-Reward)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules import optimizers
from lightning_modules.base import TrainingModule
from prl.config import ModelSource, Optimization
from prl.data.image_encoding import PictureQuestionEncoder
from prl.data.rows.image_records import PictureQuestion
from prl.diffusion.rewards.vision_language import VisionLanguageModel, load_vision_language
from prl.diffusion.rewards.yes_no import filled, yes_no_loss
from prl.masking import weighted_mean
from prl.models.adapters import own_parameters
from prl.run_folder.inputs import Inputs, model_inputs

CONSISTENT = "Do these two pictures show the same subject? Answer Yes or No, then give reasons."


class YesNoJudgeModule(TrainingModule):
    """Imitates answers that begin with Yes or No and go on with reasons (PaCo-Reward, 2512.04784, equation 1).

    The first token, which alone is read as a reward, has a weight of its own. What was trained is read by
    `ConsistencyReward` and, for a question of which picture is better, `VisionJudge`.

    Args:
        model: folder or hub id of a vision-language model, as `AutoModelForImageTextToText` reads; with `lora` adapters
            are trained.
        question: what is asked, where {prompt} stands for the prompt of a row.
        alpha: weight of the first token, from 0 to 1; the reasons share the rest.
        optimization: learning rate and schedule.

    Raises:
        ValueError: for a weight out of range, or an empty question.
    """

    record_type = PictureQuestion

    def __init__(
        self,
        model: ModelSource,
        question: str = CONSISTENT,
        alpha: float = 0.1,
        optimization: Optimization = Optimization(learning_rate=2e-4),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is {alpha}; expected above 0, or no verdict is learnt, and at most 1")
        if not question.strip():
            raise ValueError("question is empty; say what is asked about the pictures")
        self.source, self.question, self.alpha, self.optimization = model, question, alpha, optimization
        self.model: Any = None

    def build_encoder(self) -> PictureQuestionEncoder:
        """Build the encoder of rows; the data module calls this."""
        return PictureQuestionEncoder()

    def configure_model(self) -> None:
        """Read the model; safe to call twice."""
        if self.model is None:
            found = load_vision_language(self.source)
            self.processor = found.processor
            self.model = self.shard(found.model.train())
            self._asking = [VisionLanguageModel(self.model, self.processor)]  # in a list, so that weights count once

    @property
    def asking(self) -> VisionLanguageModel:
        """The model as it is asked."""
        return self._asking[0]

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule over the model, or its adapters."""
        learning = [parameter for _, parameter in own_parameters(self.model)]
        return optimizers.configure(learning, self.optimization, self.trainer)

    def inputs(self) -> Inputs:
        """Hash the model that was read."""
        return super().inputs() | model_inputs("model.model", self.source)

    def _losses(self, batch: dict[str, Any]) -> Tensor:
        """Compute the loss of each answer: [B]."""
        losses, mask = self.asking.answer_losses(batch["pictures"], self._questions(batch), batch["answers"])
        return yes_no_loss(losses, mask, self.alpha)

    def _questions(self, batch: dict[str, Any]) -> list[str]:
        return [filled(self.question, prompt) for prompt in batch["prompts"]]

    def step_totals(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the weight of each answer."""
        return {"weights": torch.ones(len(batch["index"]), device=batch["index"].device)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the mean loss per answer over all ranks and all batches of a step."""
        losses, weights = self._losses(batch), self.step_totals(batch)["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss, and the share of verdicts that are those of the answers."""
        counted: dict[str, Any] = {"sync_dist": True, "batch_size": len(batch["index"]), "prog_bar": True}
        self.log("val/loss", self._losses(batch).mean(), **counted)
        said = torch.tensor([answer.startswith("Yes") for answer in batch["answers"]], device=self.device)
        found = self.asking.log_odds(batch["pictures"], self._questions(batch))
        self.log("val/accuracy", ((found > 0) == said).float().mean(), **counted)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, float]]:
        """Return the probability of Yes, for validation rows in file order."""
        found = self.asking.log_odds(batch["pictures"], self._questions(batch)).sigmoid()
        return [{"yes": each} for each in found.tolist()]

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of model that a card describes."""
        return "image_judge"

    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the model for `ConsistencyReward`. Raises ValueError for merge: false."""
        if not merge:
            raise ValueError("merge: false writes adapters alone, which no judge of pictures reads; leave it out")
        self.asking.save(folder, self.question)
