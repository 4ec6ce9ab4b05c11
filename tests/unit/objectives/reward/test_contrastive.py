"""The contrastive term of reward models: its figures, and what leaves the other objective as it is."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.objectives.reward import BradleyTerry, Contrastive, GeneralPreference, MultiHeadRegression, PairBatch
from prl.objectives.reward.contrastive import info_nce
from tests.helpers.records import pair_batch
from tests.helpers.reward import Warming


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.313262), (0.5, 0.126928)])
def test_two_rows_at_a_right_angle(temperature: float, expected: float) -> None:
    """ln(1 + exp(-1 / T)), whatever the lengths of the states."""
    views = torch.eye(2).expand(2, 2, 2) * torch.tensor([3.0, 0.5])
    assert info_nce(views, temperature).tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_the_second_view_is_what_a_row_is_looked_for_in() -> None:
    """Two rows that changed places are each other: ln(1 + e)."""
    swapped = torch.stack([torch.eye(2), torch.eye(2).flip(0)])
    assert info_nce(swapped, 1.0).tolist() == pytest.approx([1.313262] * 2, abs=1e-6)


def test_rows_that_are_all_alike_cannot_be_told_apart() -> None:
    assert info_nce(torch.ones(2, 5, 3), 0.05).tolist() == pytest.approx([math.log(5)] * 5)
    assert info_nce(torch.randn(2, 1, 3), 0.05).tolist() == [0.0]  # nothing to tell it from


@given(seed=st.integers(0, 1000))
def test_the_term_depends_on_the_row_and_on_no_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views, order = torch.randn(2, 6, 4, generator=generator), torch.randperm(6, generator=generator)
    torch.testing.assert_close(info_nce(views[:, order], 0.1), info_nce(views, 0.1)[order])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    torch.testing.assert_close(info_nce(views @ turn, 0.1), info_nce(views, 0.1), rtol=1e-3, atol=1e-4)


def states(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[None].expand(2, -1, -1)


def test_a_pair_is_charged_for_both_of_its_responses() -> None:
    """Chosen of both pairs are alike, rejected of both stand apart from all."""
    margin, first = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    chosen, rejected = states([1, 0, 0], [1, 0, 0]), states([0, 1, 0], [0, 0, 1])
    batch = PairBatch(margin, first, torch.ones(2), chosen_states=chosen, rejected_states=rejected)
    apart = Contrastive(beta=2.0, temperature=1.0).loss(batch) - math.log(2)
    of_chosen, of_rejected = math.log(2 + 2 * math.exp(-1)), math.log(1 + 3 * math.exp(-1))
    assert apart.tolist() == pytest.approx([of_chosen + of_rejected] * 2, abs=1e-6)


def test_differences_of_pairs_are_compared_with_those_of_others() -> None:
    margin, first = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    chosen, rejected = states([2, 0], [1, 3]), states([1, 0], [1, 1])
    batch = PairBatch(margin, first, torch.ones(2), chosen_states=chosen, rejected_states=rejected)
    apart = Contrastive(beta=1.0, of="differences", temperature=1.0).loss(batch) - math.log(2)
    assert apart.tolist() == pytest.approx([0.313262] * 2, abs=1e-6)
    one = PairBatch(
        margin[:, :1], first[:, :1], torch.ones(1), chosen_states=chosen[:, :1], rejected_states=chosen[:, :1]
    )
    with pytest.raises(ValueError, match="a batch has one pair on a process; expected two or more"):
        Contrastive(of="differences").loss(one)


@pytest.mark.parametrize("parent", [None, BradleyTerry(0.2), GeneralPreference(2), MultiHeadRegression({"a": 1.0})])
def test_no_weight_is_the_other_objective_to_the_last_bit(parent: Any) -> None:
    plain = parent or BradleyTerry()
    for seed in range(5):
        batch = pair_batch(plain, seed)
        assert torch.equal(Contrastive(parent, beta=0.0).loss(batch), plain.loss(batch))
    assert Contrastive(parent, beta=0.0).dropout_passes == 0
    with_term = Contrastive(parent)
    assert with_term.dropout_passes == 2
    for need in ("head_weights", "operator", "optional_columns", "columns"):
        assert getattr(with_term, need) == getattr(plain, need)


def test_the_state_of_the_other_objective_is_kept() -> None:
    inner = Warming()
    wrapped = Contrastive(inner, beta=0.0)
    assert wrapped.needs_both_orders
    wrapped.loss(pair_batch(inner, 0))
    again = Contrastive(Warming(), beta=0.0)
    again.load_state_dict(wrapped.state_dict())
    assert again.objective.scale == 0.1  # type: ignore[attr-defined]
    assert Contrastive().state_dict() == {}


def test_states_that_nobody_asked_for_are_named() -> None:
    batch = pair_batch(BradleyTerry(), 0)
    with pytest.raises(ValueError, match="an objective that reads them declares dropout_passes"):
        Contrastive().loss(batch)
    with pytest.raises(ValueError, match="rejected_states"):
        replace(batch, chosen_states=torch.zeros(2, 6, 3), rejected_states=torch.zeros(2, 5, 3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -0.1}, "Contrastive.beta is -0.1"),
        ({"of": "tokens"}, "Contrastive.of is 'tokens'; expected one of responses, differences"),
        ({"temperature": 0.0}, "Contrastive.temperature is 0.0"),
        ({"dropout": 0.0}, "Contrastive.dropout is 0.0; expected above 0, or both passes agree"),
        ({"dropout": 1.0}, "Contrastive.dropout is 1.0"),
        ({"objective": Contrastive()}, "Contrastive.objective is Contrastive, which has passes"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Contrastive(**settings)
