"""Bradley-Terry with ties against figures computed by hand."""

import math

import pytest
import torch

from prl.objectives.reward import BradleyTerry, BradleyTerryTies
from tests.helpers.records import read_pairs


def losses(objective, margin: list[float], target: list[float]) -> list[float]:
    pairs = read_pairs(torch.tensor(target, dtype=torch.float64), torch.tensor(margin, dtype=torch.float64))
    return objective.loss(pairs).tolist()


def test_the_three_outcomes_of_a_lead_of_1() -> None:
    win, loss, tie = losses(BradleyTerryTies(), [1.0] * 3, [1.0, 0.0, 0.5])
    assert [math.exp(-each) for each in (win, loss, tie)] == pytest.approx([0.352187, 0.068534, 0.579279], abs=1e-6)
    assert (win, tie) == pytest.approx((1.043592, 0.545971), abs=1e-6)


@pytest.mark.parametrize("k", [1.5, 5.0, 30.0])
@pytest.mark.parametrize("margin", [-30.0, -1.0, 0.0, 2.5])
def test_the_three_outcomes_are_all_there_are(k, margin) -> None:
    found = losses(BradleyTerryTies(k), [margin] * 3, [1.0, 0.0, 0.5])
    assert sum(math.exp(-each) for each in found) == pytest.approx(1.0)


def test_equal_rewards_are_mostly_a_tie() -> None:
    found = losses(BradleyTerryTies(), [0.0] * 3, [1.0, 0.0, 0.5])
    assert [math.exp(-each) for each in found] == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_without_room_for_ties_it_is_bradley_terry() -> None:
    margins, labels = [0.3, -2.0, 1.0], [1.0, 0.2, 0.0]
    assert losses(BradleyTerryTies(1.0), margins, labels) == losses(BradleyTerry(), margins, labels)


def test_a_tie_pulls_rewards_together_and_not_beyond() -> None:
    margin = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    BradleyTerryTies().loss(read_pairs(torch.full((3,), 0.5).double(), margin)).sum().backward()
    assert margin.grad[0] < 0 < margin.grad[2]
    assert margin.grad[1] == 0


def test_k_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="BradleyTerryTies.k is 0.5; expected a finite number of at least 1"):
        BradleyTerryTies(0.5)
