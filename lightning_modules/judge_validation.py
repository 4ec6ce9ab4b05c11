"""Validation of judges: gather the verdicts in both orders of all pairs, then report once."""

import logging
import sys
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import TrainingModule
from lightning_modules.dashboards import JUDGE_LAYOUT
from prl.config import ModelSource
from prl.data import PreferencePair, load_records, prompt_key
from prl.data.tokens import tokenizer_hash
from prl.distributed import gathered
from prl.evaluation.judge.report import JudgedPairs, judge_metrics, slice_metrics
from prl.evaluation.tables import PairText, most_order_dependent, most_wrong, pair_table
from prl.judge.encoding import ComparisonEncoder
from prl.judge.loading import load_judge
from prl.judge.passport import issue_passport, write_passport
from prl.judge.template import JudgeTemplate, render_conversation
from prl.judge.training_record import training_record, write_training
from prl.masking import weighted_mean
from prl.models.policy import in_own_type
from prl.objectives.reward import PairBatch, RewardObjective
from prl.verdict import Verdict, agreement, has_winner

log = logging.getLogger(__name__)


def _of_all_ranks(parts: list[Tensor]) -> Tensor:
    return torch.cat(gathered(torch.cat(parts).cpu()))


def judged_rows(rows: Iterable[dict[str, Any]], verdict: Verdict, targets: Tensor) -> JudgedPairs:
    """Build a report's input from encoded pairs, read one at a time, and verdicts; lengths are in characters."""
    facts = [(prompt_key(row["prompt"]), [len(text) for text in row["texts"]], row["source"] or None) for row in rows]
    prompts, lengths, sources = zip(*facts, strict=True)
    return JudgedPairs(verdict, targets, prompts, torch.tensor(lengths), sources)


def comparison_settings(template: JudgeTemplate, encoder: ComparisonEncoder, max_length: int) -> dict[str, Any]:
    """Return what decides a comparison's tokens, for checkpoints: template, verdict tokens, length and tokenizer."""
    return {
        **{f"template.{name}": value for name, value in asdict(template).items()},
        "template.verdicts": list(template.verdicts),
        "verdict tokens": list(encoder.verdict_ids),
        "max_length": max_length,
        "tokenizer (hash)": tokenizer_hash(encoder.tokenizer),
    }


class JudgeValidation(TrainingModule):
    """Judge in training, which reports accuracy, calibration and order effects over the validation set."""

    source: ModelSource
    """Model that the judge is trained from."""

    def __init__(self, objective: RewardObjective, passport_pairs: int) -> None:
        super().__init__()
        if passport_pairs < 0:
            raise ValueError(f"passport_pairs is {passport_pairs}; expected 0 or more")
        self.objective, self.passport_pairs = objective, passport_pairs
        self.run_state.register_methods(objective=objective)
        self._readings: list[Tensor] = []
        self._rows: list[Tensor] = []

    @abstractmethod
    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Judge every pair of a batch in both orders, chosen as `a`."""

    def _measured(self, batch: dict[str, Tensor]) -> Verdict:
        """Compute the verdict in the type of the weights, as in use, though training is in mixed precision."""
        with in_own_type(self.device):
            return self.verdict(batch)

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each pair."""
        return {"weights": batch["weights"]}

    def mean_loss(self, pairs: PairBatch, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the weighted mean of the objective over pairs; see `means`.

        Raises:
            ValueError: when the objective does not give a loss for each pair.
        """
        losses, weights = self.objective.loss(pairs), batch["weights"]
        if tuple(losses.shape) != (len(pairs),):
            raise ValueError(
                f"{type(self.objective).__name__}.loss gave shape {tuple(losses.shape)}; expected a loss for each of "
                f"{len(pairs)} pairs, [B]"
            )
        return self.means(batch, lambda totals, batches: weighted_mean(losses, weights, totals["weights"], batches))

    def log_training(self, win_logit: Tensor, targets: Tensor) -> None:
        """Log the accuracy of one training batch over pairs that are not ties, and its mean margin.

        Args:
            win_logit: [N] log-odds that chosen is better, without gradient.
            targets: [N] probability of the label that it is.
        """
        right, decided = agreement(win_logit, targets), has_winner(targets)
        self.log("train/accuracy", right[decided].mean() if decided.any() else 0.5, prog_bar=True)
        self.log("train/margin", ((2 * targets - 1) * win_logit).mean())

    def on_train_start(self) -> None:
        """Lay out the page of TensorBoard."""
        super().on_train_start()
        if self.tensorboard is not None:
            self.tensorboard.add_custom_scalars(JUDGE_LAYOUT)

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self._readings, self._rows = [], []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Remember both margins, the label and the row of each pair."""
        verdict = self._measured(batch)
        self._readings.append(torch.stack([verdict.margin_ab, verdict.margin_ba, batch["targets"].float()], dim=1))
        if "index" in batch:  # rows of another data module need not have texts
            self._rows.append(batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Report over the pairs of all ranks."""
        readings, rows = _of_all_ranks(self._readings), None
        if self._rows:
            numbers, order = _of_all_ranks(self._rows).sort()  # the order of the file, however many ranks read it
            readings, rows = readings[order], self._encoded_rows(numbers)
        self._readings, self._rows = [], []
        verdict, targets = Verdict(readings[:, 0], readings[:, 1]), readings[:, 2]
        metrics = judge_metrics(verdict, targets)
        pairs = None if rows is None else judged_rows(rows, verdict, targets)
        if pairs is not None:
            metrics |= slice_metrics(pairs)
        shown = {"accuracy", "nll"}
        for name, value in metrics.items():
            self.log(f"val/{name}", value, prog_bar=name in shown, rank_zero_only=True)
        tensorboard = self.tensorboard
        if tensorboard is not None and not self.trainer.sanity_checking:
            step = self.logged_step()
            tensorboard.add_histogram("val/win_prob_of_chosen", verdict.win_prob.float().cpu(), step)
            tensorboard.add_histogram("val/position_bias", verdict.position_bias.float().cpu(), step)
            if pairs is not None:
                self._draw(tensorboard, pairs, rows, step)

    def _encoded_rows(self, numbers: Tensor) -> Any:
        """Read the columns of these validation rows that reports need, still on disk: a `datasets.Dataset`."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        texts = datamodule.rows["validation"].select_columns(["prompt", "texts", "source"])
        return texts.select(numbers.tolist())

    @staticmethod
    def _draw(tensorboard: Any, pairs: JudgedPairs, rows: Any, step: int) -> None:
        from prl.evaluation.figures import judge_figures  # imports matplotlib

        for tag, figure in judge_figures(pairs).items():
            tensorboard.add_figure(tag, figure, step)
        tables = {
            "samples/worst": most_wrong(pairs.verdict, pairs.targets),
            "samples/order_gap": most_order_dependent(pairs.verdict),
        }
        for tag, chosen in tables.items():
            texts = [PairText(render_conversation(rows[n]["prompt"]), *rows[n]["texts"]) for n in chosen]
            tensorboard.add_text(tag, pair_table(chosen, texts, pairs.verdict, pairs.targets), step)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect verdicts as validation does."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """Return for each validation pair, in file order, the probability that chosen wins, and both margins."""
        verdict = self._measured(batch)
        columns = {"win_prob": verdict.win_prob, "margin_ab": verdict.margin_ab, "margin_ba": verdict.margin_ba}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def on_test_epoch_start(self) -> None:
        """Start afresh."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Report over the pairs of all ranks."""
        self.on_validation_epoch_end()

    def after_export(self, folder: Path) -> None:
        """Record what the judge was trained on, and measure it on the first validation pairs, for the gate of PPO.

        The judge is read again from its folder, because PPO will use it with adapters merged.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        known = (getattr(datamodule, "attacks", None), self.source, getattr(datamodule, "train_prompts", None))
        write_training(folder, training_record(*known))
        source = getattr(datamodule, "validation_source", None)
        if self.passport_pairs == 0:
            return
        if source is None:
            log.warning("no passport: data.validation is not set; `prl judge --write-passport` writes one")
            return
        limit = min(self.passport_pairs, source.limit or self.passport_pairs)
        judge = load_judge(folder).to(self.trainer.strategy.root_device)
        source, check = replace(source, limit=limit), lambda pair: judge.check(pair.prompt)
        further = [*self.objective.columns, *self.objective.optional_columns]
        pairs = load_records(source, PreferencePair, datamodule.on_invalid, check, further)
        sys.stderr.write(f"passport: measuring the judge on {len(pairs.records)} pairs\n")  # which may take minutes
        write_passport(folder, issue_passport(judge, folder, pairs))
