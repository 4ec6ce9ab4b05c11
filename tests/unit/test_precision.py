"""Which types can learn, and which models keep their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_modules.optimizers import check_learns, parameter_group
from lightning_modules.stage import Stage
from prl.config import LoRA, ModelSource, Optimization
from prl.data import Demonstration
from prl.models.adapters import add_adapters
from prl.models.loading import load_causal_lm, load_scalar_classifier


class OneMatrix(Stage):
    """Ten thousand weights of the size that a language model's have."""

    record_type = Demonstration

    def __init__(self, dtype: torch.dtype, rate: float) -> None:
        super().__init__()
        self.model, self.optimization = torch.nn.Linear(100, 100, dtype=dtype), Optimization(learning_rate=rate)
        torch.nn.init.normal_(self.model.weight, std=0.02)

    def build_encoder(self) -> Any:
        raise NotImplementedError

    def export(self, folder: Path, *, merge: bool = True) -> None:
        raise NotImplementedError

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.model(batch).square().sum()


def moved_share(dtype: torch.dtype, rate: float, precision: Any) -> float:
    """Share of the weights that one step changes."""
    module = OneMatrix(dtype, rate)
    before = module.model.weight.detach().clone()
    trainer = Trainer(accelerator="cpu", max_steps=1, barebones=True, precision=precision)
    trainer.fit(module, DataLoader(torch.randn(8, 100), batch_size=8))
    return float((module.model.weight.detach() != before).float().mean())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("rate", [1e-6, 1e-5])
def test_a_step_moves_the_weights_or_is_refused(precision: str, rate: float) -> None:
    assert moved_share(torch.float32, rate, precision) > 0.99
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match="the model is to learn in .*float16, where most steps are rounded away"):
            moved_share(dtype, rate, precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_everything_is_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.precision is {precision}, .* use bf16-mixed"):
        moved_share(torch.float32, 1e-3, precision)


@pytest.mark.parametrize("load", [load_causal_lm, load_scalar_classifier])
def test_what_learns_beside_a_base_in_bfloat16_is_float32(load: Any, tiny_folder: Path) -> None:
    model = load(ModelSource(path=str(tiny_folder), dtype="bfloat16", lora=LoRA(rank=2)))
    if load is load_causal_lm:
        add_adapters(model, "critic")
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {each.dtype for name, each in model.named_parameters() if name in trained} == {torch.float32}
    assert {each.dtype for name, each in model.named_parameters() if name not in trained} == {torch.bfloat16}
    assert any("score" in name for name in trained) == (load is load_scalar_classifier)
    model(torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()  # types meet in the forward pass
    check_learns(parameter_group(model.parameters(), Optimization(), "model"))
