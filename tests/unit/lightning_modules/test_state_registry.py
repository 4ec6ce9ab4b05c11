"""The registry of stateful parts is complete and strict."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from lightning_modules.state_registry import StateRegistry
from prl.rl.kl_controller import AdaptiveKL, FixedKL


def test_states_go_there_and_back() -> None:
    state, other = StateRegistry(), StateRegistry()
    controllers = [AdaptiveKL(0.5, 1.0, 10), AdaptiveKL(0.1, 1.0, 10)]
    for registry, controller in zip((state, other), controllers, strict=True):
        registry.register("kl", controller)
    other.load_state_dict(state.state_dict())
    assert controllers[1].coef == 0.5


def test_other_parts_are_named() -> None:
    state = StateRegistry()
    state.register("kl", FixedKL(0.1))
    with pytest.raises(ValueError, match=r"missing in the checkpoint \['kl'\], unknown to this run \['bank'\]"):
        state.load_state_dict({"bank": {}})
    with pytest.raises(ValueError, match="named 'kl' is registered already"):
        state.register("kl", FixedKL(0.2))


def test_a_part_that_is_not_registered_is_found() -> None:
    """Every run checks its stage before it trains (`RunCheckpoint.on_train_start`)."""
    weights = nn.Linear(1, 1)
    kept = {"model": weights, "metric": MeanMetric(), "optimizer": torch.optim.SGD(weights.parameters(), lr=1)}
    state = StateRegistry()
    stage = SimpleNamespace(**kept, kl=AdaptiveKL(0.5, 1.0, 10), coef=0.5, run_state=state, controller=AdaptiveKL)
    with pytest.raises(ValueError, match=r"SimpleNamespace.kl has a state.*self.run_state.register\('kl', self.kl\)"):
        state.check(stage)
    state.register("kl", stage.kl)
    state.check(stage)
