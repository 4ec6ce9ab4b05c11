"""Validation that every judge shares: gather both readings of all pairs, then report once."""

import logging
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_modules.stage import Stage
from prl.data import PreferencePair, load_records
from prl.distributed import world_size
from prl.evaluation.judge_report import judge_metrics
from prl.judge.loading import load_judge
from prl.judge.passport import issue_passport, write_passport
from prl.types import Verdict

log = logging.getLogger(__name__)


class JudgeValidation(Stage):
    """A judge in training: reports accuracy, calibration and order effects over the whole validation set."""

    def __init__(self, passport_pairs: int) -> None:
        super().__init__()
        if passport_pairs < 0:
            raise ValueError(f"passport_pairs is {passport_pairs}; expected 0 or more")
        self.passport_pairs = passport_pairs
        self._readings: list[Tensor] = []

    @abstractmethod
    def verdict(self, batch: dict[str, Tensor]) -> Verdict:
        """Both readings of every pair of a batch, chosen as `a`."""

    def log_training(self, verdict: Verdict, targets: Tensor) -> None:
        """Accuracy of one training batch over pairs that are not ties, and its mean margin."""
        right = (verdict.win_logit > 0) == (targets > 0.5)
        decided = targets != 0.5
        self.log("train/accuracy", right[decided].float().mean() if decided.any() else 0.5, prog_bar=True)
        self.log("train/margin", ((2 * targets - 1) * verdict.win_logit).mean())

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self._readings = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Remember both margins and the label of each pair."""
        verdict = self.verdict(batch)
        self._readings.append(torch.stack([verdict.margin_ab, verdict.margin_ba, batch["targets"]], dim=1))

    def on_validation_epoch_end(self) -> None:
        """Report over the pairs of all ranks."""
        readings = torch.cat(self._readings)
        if world_size() > 1:
            readings = dim_zero_cat(gather_all_tensors(readings))
        self._readings = []
        verdict = Verdict(readings[:, 0], readings[:, 1])
        metrics = judge_metrics(verdict, readings[:, 2])
        shown = {"accuracy", "nll"}
        for name, value in metrics.items():
            self.log(f"val/{name}", value, prog_bar=name in shown, rank_zero_only=True)
        board = self.board
        if board is not None and not self.trainer.sanity_checking:
            step = self.logged_step()
            board.add_histogram("val/win_prob_of_chosen", verdict.win_prob.float().cpu(), step)
            board.add_histogram("val/position_bias", verdict.position_bias.float().cpu(), step)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Testing reports what validation does."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """For each validation pair in file order: probability that chosen wins, and both margins."""
        verdict = self.verdict(batch)
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
        """Measure the judge that was just written on the first validation pairs, for the gate in front of PPO.

        It is read again from its folder: that, with adapters merged, is what PPO will use.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        source = getattr(datamodule, "validation_source", None)
        if self.passport_pairs == 0:
            return
        if source is None:
            log.warning("no passport: data.validation is not set; `prl judge --write-passport` writes one")
            return
        limit = min(self.passport_pairs, source.limit or self.passport_pairs)
        pairs = load_records(replace(source, limit=limit), PreferencePair, datamodule.on_invalid)
        judge = load_judge(folder).to(self.trainer.strategy.root_device)
        write_passport(folder, issue_passport(judge, folder, pairs))
