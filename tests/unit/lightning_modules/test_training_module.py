"""What every stage does around its optimizer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_modules.base import TrainingModule
from prl.config import Optimization
from prl.data import Demonstration
from prl.rl.health import HealthError


class OneWeight(TrainingModule):
    record_type = Demonstration

    def __init__(self) -> None:
        super().__init__()
        self.model, self.optimization = torch.nn.Linear(1, 1), Optimization(learning_rate=0.1)

    def build_encoder(self) -> Any:
        raise NotImplementedError

    def export(self, folder: Path, *, merge: bool = True) -> None:
        raise NotImplementedError

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.model(batch).sum()


class InfiniteLoss(OneWeight):
    """Its gradients are finite."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.model(batch.nan_to_num(posinf=1.0)).sum() + batch.sum()


class InfiniteGradient(OneWeight):
    """Its loss is finite."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.model(batch.nan_to_num(posinf=1.0)).sum()
        return loss if batch.isfinite().all() else (loss - loss).abs().sqrt()


class Accumulating(SingleDeviceStrategy):
    """As DeepSpeed does: every backward pass asks for a step, and the strategy says when there is one."""

    handles_gradient_accumulation = True


class Watch(Callback):
    def __init__(self) -> None:
        self.left: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.left.append(pl_module.model.weight.grad is not None)


def fit(
    module: TrainingModule, rows: list[float], folder: Path, *callbacks: Callback, start: Any = None, **own: Any
) -> Trainer:
    settings: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(callbacks=list(callbacks), **{**settings, **own})
    trainer.fit(module, torch.utils.data.DataLoader(torch.tensor(rows)[:, None]), ckpt_path=start)
    return trainer


@pytest.mark.parametrize(
    ("strategy", "every", "left"),
    [
        (SingleDeviceStrategy, 1, [False, False, False, False]),
        (SingleDeviceStrategy, 2, [True, False, True, False]),
        (Accumulating, 2, [True, True, True, True]),
    ],
)
def test_gradients_go_with_the_step_and_not_before(tmp_path, strategy, every, left) -> None:
    watch = Watch()
    fit(OneWeight(), [1.0] * 4, tmp_path, watch, strategy=strategy("cpu"), accumulate_grad_batches=every)
    assert watch.left == left


class Rates(Callback):
    """The learning rate of each batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_finished_run_made_longer_learns_at_the_rates_of_its_new_length(tmp_path) -> None:
    module, first, more, checkpoint = OneWeight(), Rates(), Rates(), tmp_path / "a.ckpt"
    module.optimization = Optimization(learning_rate=0.8, schedule="linear")
    fit(module, [1.0] * 8, tmp_path, first, max_epochs=-1, max_steps=4).save_checkpoint(checkpoint)
    fit(module, [1.0] * 8, tmp_path, more, max_epochs=-1, max_steps=8, start=checkpoint)
    assert first.seen == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert more.seen == pytest.approx([0.4, 0.3, 0.2, 0.1])  # it was 0 after the fourth of four, and half way of eight


class Weights(Callback):
    """The weight after each batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(pl_module.model.weight.item())


@pytest.mark.parametrize(
    ("kind", "found"),
    [(OneWeight, "loss -?inf"), (InfiniteLoss, "loss inf"), (InfiniteGradient, "gradient norm nan")],
)
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_not_finite_ends_the_run_before_its_step(tmp_path, kind, found, every) -> None:
    module, weights = kind(), Weights()
    rows = [1.0, 1.0, math.inf, 1.0]
    with pytest.raises(HealthError, match=rf"batch {2 + every}: the loss or a gradient is not finite \(.*{found}"):
        fit(module, rows, tmp_path, weights, accumulate_grad_batches=every)
    assert module.model.weight.item() == weights.seen[1]  # two steps, or one of two batches
    assert math.isfinite(weights.seen[1])
    assert (tmp_path / "health" / f"batch=00000{2 + every}.pt").is_file()


def test_weights_that_a_step_made_infinite_are_not_written(tmp_path) -> None:
    module = OneWeight()
    module.optimization = Optimization(learning_rate=3e38)
    trainer = fit(module, [1.0], tmp_path)
    assert module.model.weight.isinf()
    with pytest.raises(HealthError, match="after batch 1, 2 trained weights are not finite"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
