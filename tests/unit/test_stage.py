"""What every stage does around its optimizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_modules.stage import Stage
from prl.config import Optimization
from prl.data import Demonstration


class OneWeight(Stage):
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


class Accumulating(SingleDeviceStrategy):
    """As DeepSpeed does: every backward pass asks for a step, and the strategy says when there is one."""

    handles_gradient_accumulation = True


class Watch(Callback):
    def __init__(self) -> None:
        self.left: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.left.append(pl_module.model.weight.grad is not None)


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
    trainer = Trainer(
        accelerator="cpu",
        strategy=strategy("cpu"),
        accumulate_grad_batches=every,
        max_epochs=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(OneWeight(), torch.utils.data.DataLoader(torch.ones(4, 1)))
    assert watch.left == left
