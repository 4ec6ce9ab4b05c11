"""Checkpoints that were written before keys in them were renamed still load, and are still checked."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.base import Encoder, TrainingModule
from prl.anchors import AnchorBank


class OneWeight(TrainingModule):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.model, self.length = nn.Linear(1, 1), length

    def build_encoder(self) -> Encoder:
        raise NotImplementedError

    def export(self, folder: Any, *, merge: bool = True) -> None:
        raise NotImplementedError

    def checkpoint_settings(self) -> dict[str, Any]:
        return {"max_length": self.length}


@pytest.mark.parametrize("key", ["checkpoint_settings", "fixed_settings"])
def test_settings_of_a_checkpoint_are_compared_under_either_key(key: str) -> None:
    weights = {name: torch.full_like(value, 3.0) for name, value in OneWeight(8).state_dict().items()}
    module = OneWeight(8)
    module.restore({"state_dict": weights, key: {"max_length": 8}}, "batch-000001.ckpt")
    assert module.model.weight.item() == 3.0
    with pytest.raises(ValueError, match="max_length: 16 in training, 8 now"):
        module.restore({"state_dict": weights, key: {"max_length": 16}}, "batch-000001.ckpt")


def test_an_anchor_bank_reads_its_earlier_names() -> None:
    anchor = {"text": "a", "version": 2, "wins": 1.5, "num_judged": 3}
    bank = AnchorBank()
    bank.load_state_dict({"key": {**anchor, "rival": "b", "rival_prob": 0.75}})
    assert bank.state_dict() == {"key": {**anchor, "challenger": "b", "challenger_prob": 0.75}}
