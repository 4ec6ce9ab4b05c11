"""The record that reward objectives read, and what it refuses."""

from typing import Any

import pytest
import torch

from prl.objectives.reward import METHODS, BradleyTerry, PairBatch
from tests.helpers.records import pair_batch

GIVEN: dict[str, Any] = {
    "margin": torch.zeros(2, 3),
    "chosen_first": torch.ones(2, 3, dtype=torch.bool),
    "target": torch.ones(3),
}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"margin": torch.zeros(3)}, r"shapes \(3,\) and \(3,\), expected \[R, B\] and \[B\]"),
        ({"target": torch.ones(4)}, r"margin has shape \(2, 3\), expected \(2, 4\)"),
        ({"chosen_first": torch.ones(1, 3, dtype=torch.bool)}, r"chosen_first has shape \(1, 3\), expected \(2, 3\)"),
        ({"chosen_first": torch.ones(2, 3)}, "chosen_first is torch.float32, expected torch.bool"),
        ({"logits": torch.zeros(6, 5)}, r"logits has shape \(6, 5\), expected \(2, 3, 5\)"),
        ({"rejected_rewards": torch.zeros(3)}, r"rejected_rewards has shape \(3,\), expected \(3, 3\)"),
        ({"columns": {"gap": torch.zeros(2)}}, r"columns\['gap'\] has shape \(2,\), expected \(3,\)"),
    ],
)
def test_pairs_are_checked_when_they_are_made(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PairBatch(**{**GIVEN, **wrong})


def test_what_was_not_declared_is_not_there() -> None:
    pairs = pair_batch(BradleyTerry(), 0)
    with pytest.raises(ValueError, match="an objective that reads them declares needs_logits = True"):
        pairs.verdict_logits()
    with pytest.raises(ValueError, match="an objective that reads them declares head_weights"):
        pairs.head_rewards()


def test_methods_are_found_and_exported() -> None:
    import prl.objectives.reward as package

    assert {"BradleyTerry", "Pairwise"} <= METHODS.keys()
    for name, method in METHODS.items():
        assert getattr(package, name) is method
        assert method.__doc__, name
