"""A step over several batches is the step over their rows at once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.steps import StepLoader
from lightning_modules import (
    BradleyTerryRewardModule,
    GenerativeRewardModule,
    OPPOModule,
    PreferenceModule,
    SupervisedModule,
)
from prl.config import ModelSource, Optimization
from prl.control import DataSettings, NetworkSettings, make_data
from prl.control.oppo import LossWeights
from prl.data import Demonstration, PreferencePair
from prl.judge.template import JudgeTemplate

TEMPLATE = JudgeTemplate(text="p {{ prompt }} 1 {{ response_a }} 2 {{ response_b }} best", chat=False)
PROMPT = ({"role": "user", "content": "reverse dcab"},)
STILL = Optimization(learning_rate=1e-30)
PAIRS = [
    PreferencePair(
        PROMPT, "abcd"[: 1 + n % 4], "dcba" * (1 + 5 * (n == 3)), [1.0, 0.7][n % 2], weight=[1.0, 10.0][n % 2]
    )
    for n in range(8)
]


class Gradients(Callback):
    """The gradient of each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]))


def make(kind: str, folder: Path) -> tuple[Any, list[Any]]:
    source = ModelSource(path=str(folder))
    torch.manual_seed(0)  # the scalar head is new
    if kind == "supervised":
        lengths = [1, 40, 2, 3, 1, 20, 2, 9]
        return SupervisedModule(source, STILL, max_length=99), [
            Demonstration(PROMPT, "abcd"[n % 4] * n) for n in lengths
        ]
    if kind == "bradley_terry":
        return BradleyTerryRewardModule(source, STILL, max_length=64), PAIRS
    if kind == "preference":
        return PreferenceModule(source, optimization=STILL, max_length=64), PAIRS
    if kind == "oppo":
        sizes = NetworkSettings(4, 2, 40, context=9, latent_size=3, width=8, layers=1, dropout=0.0)
        weights = LossWeights(margin=30.0)  # which no pair keeps
        return OPPOModule(sizes, weights, STILL, optimum_learning_rate=1e-30), oppo_rows(sizes)
    text_coef = 0.5 if kind == "judge with text" else 0.0
    return GenerativeRewardModule(source, TEMPLATE, STILL, text_coef=text_coef, max_length=99), PAIRS


def oppo_rows(sizes: NetworkSettings) -> list[dict[str, Tensor]]:
    """Pairs of windows of one to nine steps."""
    data = make_data(DataSettings(trajectories=4, pairs=40), seed=0)
    data.lengths[:] = 21 + np.arange(4)
    return [sizes.window_encoder().encode(data, pair) for pair in range(8)]


def gradients(kind: str, folder: Path, rows: slice, batch_size: int, every: int, scratch: Path) -> list[Tensor]:
    module, records = make(kind, folder)
    encoder, gradients = module.build_encoder(), Gradients()
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "default_root_dir": scratch, "accelerator": "cpu", "max_epochs": 1}
    trainer = Trainer(accumulate_grad_batches=every, callbacks=[gradients], **settings)
    encoded = records[rows] if kind == "oppo" else [encoder.encode(record) for record in records[rows]]
    trainer.fit(module, StepLoader(encoded, batch_size, collate_fn=encoder.collate, trainer=trainer))
    return gradients.seen


@pytest.mark.parametrize("kind", ["supervised", "bradley_terry", "preference", "judge", "judge with text", "oppo"])
def test_accumulated_batches_have_the_gradient_of_one_large_batch(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    accumulated = gradients(kind, tiny_folder, slice(0, 8), 1, 3, tmp_path)
    assert len(accumulated) == 3  # of three, three and two rows: the last step of an epoch may be shorter
    for step, rows in zip(accumulated, (slice(0, 3), slice(3, 6), slice(6, 8)), strict=True):
        (whole,) = gradients(kind, tiny_folder, rows, 3, 1, tmp_path)
        assert float((step - whole).norm() / whole.norm()) < 1e-5


def test_batches_that_know_of_no_others_are_not_accumulated(tiny_folder: Path, tmp_path: Path) -> None:
    module, records = make("supervised", tiny_folder)
    encoder = module.build_encoder()
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accumulate_grad_batches=2, max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **settings)
    plain = DataLoader([encoder.encode(record) for record in records], batch_size=2, collate_fn=encoder.collate)
    with pytest.raises(ValueError, match="accumulate_grad_batches is 2, but the batches do not say what their step"):
        trainer.fit(module, plain)


def test_a_run_that_goes_on_within_a_step_ends_that_step_first() -> None:
    progress = SimpleNamespace(current=SimpleNamespace(ready=3))
    trainer = SimpleNamespace(
        accumulate_grad_batches=4,
        num_training_batches=10,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        lightning_module=SimpleNamespace(step_totals=lambda batch: {"rows": torch.ones(1)}),
    )
    sizes = []
    for batch in StepLoader(list(range(7)), batch_size=1, collate_fn=lambda rows: {"row": rows[0]}, trainer=trainer):
        progress.current.ready += 1  # as Lightning counts it
        sizes.append(int(batch["of_step"]["rows"].sum()))
    assert sizes == [1, 4, 4, 4, 4, 2, 2]
