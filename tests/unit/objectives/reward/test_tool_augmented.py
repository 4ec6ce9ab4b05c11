"""The loss of tool-augmented reward modelling: its figures, and the Bradley-Terry loss it becomes without a text."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from prl.objectives.reward import BradleyTerry, ToolAugmented
from prl.objectives.reward.base import PairBatch
from tests.helpers.records import pair_batch


def pairs(margin: float, nll: float | None, target: float = 1.0) -> PairBatch:
    given = None if nll is None else torch.tensor([nll], dtype=torch.float64)
    margins = torch.tensor([[margin]], dtype=torch.float64)
    return PairBatch(margins, margins > -9, torch.tensor([target], dtype=torch.float64), trace_nll=given)


@pytest.mark.parametrize(
    ("settings", "margin", "nll", "expected"),
    [
        ({}, 1.0, 0.7, 0.7 + 0.5 * 0.313262),
        ({}, -2.0, 0.0, 0.5 * 2.126928),
        ({"language_coef": 0.2, "ranking_coef": 2.0}, 1.0, 3.0, 0.6 + 2 * 0.313262),
        ({"ranking_coef": 0.0}, 5.0, 1.25, 1.25),
        ({"language_coef": 0.0}, 1.0, None, 0.5 * 0.313262),
        ({"label_smoothing": 0.1}, 1.0, 0.0, 0.5 * (0.9 * 0.313262 + 0.1 * 1.313262)),
    ],
)
def test_the_figures(settings: Any, margin: float, nll: float, expected: float) -> None:
    assert ToolAugmented(**settings).loss(pairs(margin, nll)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_text_it_is_bradley_terry_to_the_last_bit(seed: int) -> None:
    objective = ToolAugmented(language_coef=0.0, ranking_coef=1.0)
    batch = replace(pair_batch(objective, seed), trace_nll=None)
    assert torch.equal(objective.loss(batch), BradleyTerry().loss(batch))
    smooth = ToolAugmented(language_coef=0.0, ranking_coef=1.0, label_smoothing=0.2)
    assert torch.equal(smooth.loss(batch), BradleyTerry(0.2).loss(batch))


def test_a_batch_without_traces_is_refused() -> None:
    with pytest.raises(ValueError, match="declares needs_traces"):
        ToolAugmented().loss(pairs(1.0, None))
    with pytest.raises(ValueError, match="trace_nll"):
        PairBatch(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.ones(2), trace_nll=torch.zeros(3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"language_coef": -1.0}, "language_coef is -1"),
        ({"ranking_coef": float("inf")}, "ranking_coef is inf"),
        ({"language_coef": 0.0, "ranking_coef": 0.0}, "nothing is learnt"),
        ({"label_smoothing": 0.6}, "ToolAugmented"),
    ],
)
def test_settings_out_of_range(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ToolAugmented(**settings)
