"""Steps and validations of a preference objective, whatever its responses are: texts or pictures."""

import logging
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import TrainingModule
from lightning_modules.drift import DriftMonitor
from prl.distributed import gathered, global_sum
from prl.masking import weighted_mean
from prl.objectives.preference import PreferenceBatch, PreferenceObjective
from prl.verdict import agreement, has_winner

log = logging.getLogger(__name__)


class PairTraining(TrainingModule):
    """Base of modules that learn from pairs: the loss of each pair, its mean over a step, and what is logged."""

    objective: PreferenceObjective
    drift: DriftMonitor
    reference_moves = False
    """True where the reference changes in a run; log-ratios to it then do not measure the policy's drift."""
    _validated: list[tuple[Tensor, Tensor]]

    @abstractmethod
    def score(self, batch: dict[str, Any]) -> PreferenceBatch:
        """Compute what the objective reads of a batch."""

    def _losses(self, pairs: PreferenceBatch) -> Tensor:
        losses = self.objective.loss(pairs)
        if tuple(losses.shape) != (len(pairs),):
            name = type(self.objective).__name__
            raise ValueError(
                f"{name}.loss gave shape {tuple(losses.shape)}; expected a loss for each of {len(pairs)} pairs, [B]"
            )
        if torch.is_grad_enabled() and not losses.requires_grad:
            raise ValueError(
                f"{type(self.objective).__name__}.loss gave losses without a gradient, so nothing can be learnt; "
                "compute them from logprobs without detach, item or numpy"
            )
        return losses

    def step_totals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each pair."""
        return {"weights": batch["weights"]}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the weighted mean loss per pair over all ranks and all batches of a step."""
        pairs = self.score(batch)
        losses, weights = self._losses(pairs), batch["weights"]
        loss, of_batch = self.means(batch, lambda totals, n: weighted_mean(losses, weights, totals["weights"], n))
        self.log("train/loss", of_batch, prog_bar=True)
        with torch.no_grad():
            self._log_training(pairs)
        return loss

    def _log_training(self, pairs: PreferenceBatch) -> None:
        found = self._measured(pairs)
        right, counted = _accuracy(found["margin"], pairs.target)
        self.log("train/accuracy", right.sum() / counted.sum() if counted.any() else 0.5, prog_bar=True)
        self.log("train/margin", ((2 * pairs.target - 1) * found["margin"]).mean())
        sides = ("chosen", "rejected")
        for side in sides:
            self.log(f"rewards/{side}", found[f"rewards/{side}"].mean())
            self.log(f"logps/{side}", found[f"logps/{side}"].mean())
        moved = torch.stack([found[f"moved/{side}"].sum() for side in sides] + [found["margin"].new_tensor(len(pairs))])
        chosen, rejected, count = global_sum(moved.float()).tolist()
        self.log_dict(self.drift.observe(chosen / count, rejected / count), rank_zero_only=True)
        if (warning := self.drift.warning()) is not None and self._trainer is not None and self.trainer.is_global_zero:
            log.warning(warning)

    def _measured(self, pairs: PreferenceBatch) -> dict[str, Tensor]:
        """Compute the logged numbers of each pair, [B] each: implicit rewards, log-probabilities, and their drift."""
        found = {}
        for name in ("chosen", "rejected"):
            responses = pairs.views[name]
            found[f"rewards/{name}"] = self.objective.reward(responses)
            found[f"logps/{name}"] = responses.logprob()
            has_reference = responses.ref_logprobs is not None and not self.reference_moves
            found[f"moved/{name}"] = responses.log_ratio() if has_reference else found[f"logps/{name}"]
        return {**found, "margin": found["rewards/chosen"] - found["rewards/rejected"]}

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self._validated = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Remember the loss and the numbers of each pair."""
        pairs = self.score(batch)
        found = {"loss": self._losses(pairs), **self._measured(pairs)}
        rows = batch.get("index", torch.arange(len(pairs)))
        columns = [found[name] for name in (*_MEANS, "margin")] + [pairs.target, batch["weights"]]
        self._validated.append((rows.cpu(), torch.stack([each.double().cpu() for each in columns], dim=1)))

    def on_validation_epoch_end(self) -> None:
        """Log means over the pairs of all ranks, in the order of the file, however many ranks read it."""
        parts = [part for own in gathered(self._validated) for part in own]
        self._validated = []
        order = torch.cat([rows for rows, _ in parts]).argsort(stable=True)
        numbers = torch.cat([values for _, values in parts])[order]
        *_, margin, target, weights = columns = list(numbers.unbind(1))
        values = dict(zip(_MEANS, (each.mean() for each in columns), strict=False))
        values["loss"] = (columns[0] * weights).sum() / weights.sum()
        right, counted = _accuracy(margin, target)
        values["accuracy"] = right.sum() / counted.sum() if counted.any() else torch.tensor(0.5)
        values["margin"] = ((2 * target - 1) * margin).mean()
        for name, value in values.items():
            # Without a reference, a single validation does not know the log-probabilities of the start.
            if not name.startswith("moved/") or self.objective.needs_reference:
                shown = name in ("loss", "accuracy")
                self.log(f"val/{_TAGS.get(name, name)}", value.float(), prog_bar=shown, rank_zero_only=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect what validation collects."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        """Start afresh."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Report over the pairs of all ranks."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """Return implicit rewards, their margin and log-probabilities, for validation pairs in file order."""
        found = self._measured(self.score(batch))
        names = {"margin": "margin", "rewards/chosen": "reward_chosen", "rewards/rejected": "reward_rejected"}
        names |= {"logps/chosen": "logprob_chosen", "logps/rejected": "logprob_rejected"}
        rows = zip(*(found[name].tolist() for name in names), strict=True)
        return [dict(zip(names.values(), row, strict=True)) for row in rows]


_MEANS = ("loss", *(f"{group}/{side}" for group in ("rewards", "logps", "moved") for side in ("chosen", "rejected")))
_TAGS = {f"moved/{side}": f"drift/{side}" for side in ("chosen", "rejected")}


def _accuracy(margin: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Score margins with the sign of their label 1, zero margins 1/2, and mask pairs that are no tie."""
    counted = has_winner(target)
    return agreement(margin, target) * counted, counted
