"""Objectives of the strength of preferences: the sheet's figures, and what leaves the plain loss as it is."""

import math
from typing import Any

import pytest
import torch

from prl.objectives.reward import BradleyTerry, PairBatch, PreferenceStrength
from prl.pairs.strength import strengths, weakest

VOTES = torch.tensor([[0.8], [-0.2], [0.5], [1.1]], dtype=torch.float64)


def pair(margin: float, target: float = 1.0, mean: float = 0.55) -> PairBatch:
    given, first = torch.tensor([[margin]], dtype=torch.float64), torch.tensor([[True]])
    columns = {"strength_mean": torch.tensor([mean], dtype=torch.float64)}
    return PairBatch(given, first, torch.tensor([target], dtype=torch.float64), columns)


def test_votes_have_a_mean_and_the_deviation_over_all_of_them() -> None:
    mean, std = strengths(VOTES)
    assert (mean.item(), std.item()) == pytest.approx((0.55, 0.482183), abs=1e-6)
    assert mean.sigmoid().item() == pytest.approx(0.634136, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "target", "expected"),
    [
        ({"margin_coef": 0.0}, 1.0, 0.513015),
        ({"margin_coef": 0.0, "label_smoothing": 0.1}, 1.0, 0.553015),
        ({"margin_coef": 0.0, "soft_labels": True}, 1.0, 0.659361),
        ({"margin_coef": 0.0}, 0.0, 0.913015),
        ({}, 1.0, 0.770957),
    ],
    ids=["plain", "smoothed", "soft", "flipped", "margin"],
)
def test_the_figures_of_a_pair(settings: dict[str, Any], target: float, expected: float) -> None:
    assert PreferenceStrength(**settings).loss(pair(0.4, target)).item() == pytest.approx(expected, abs=1e-6)


def both_orders(seed: int) -> PairBatch:
    torch.manual_seed(seed)
    first = torch.tensor([[True], [False]]).expand(2, 9)
    return PairBatch(torch.randn(2, 9), first, torch.rand(9), {"strength_mean": torch.randn(9)})


def test_nothing_set_is_the_plain_loss_to_the_last_bit() -> None:
    for seed in range(5):
        batch = both_orders(seed)
        for rate in (0.0, 0.2):
            plain = BradleyTerry(rate).loss(batch)
            assert torch.equal(PreferenceStrength(0.0, label_smoothing=rate).loss(batch), plain)
    sure = pair(0.4, 1.0, math.inf)  # a vote that leaves no doubt
    assert torch.equal(PreferenceStrength(0.0, soft_labels=True).loss(sure), BradleyTerry().loss(sure))
    none = pair(0.4, 0.7, 0.0)
    assert torch.equal(PreferenceStrength(1.0).loss(none), BradleyTerry().loss(none))


def test_a_flipped_label_is_a_pair_with_its_responses_swapped() -> None:
    for mean in (0.55, -0.3):
        flipped, swapped = pair(0.4, 0.0, mean), pair(-0.4, 1.0, -mean)
        for settings in ({}, {"margin_coef": 0.5, "label_smoothing": 0.1}):
            found = [PreferenceStrength(**settings).loss(each) for each in (flipped, swapped)]
            torch.testing.assert_close(*found)


def test_both_orders_of_a_pair_have_their_margin_on_the_side_of_chosen() -> None:
    batch = both_orders(0)
    margin, mean = batch.chosen_margin() - 0.7 * batch.columns["strength_mean"], batch.target
    expected = (mean * -margin.sigmoid().log() + (1 - mean) * -(-margin).sigmoid().log()).mean(0)
    torch.testing.assert_close(PreferenceStrength(0.7).loss(batch), expected)


def test_a_strong_pair_pulls_longer_than_a_weak_one() -> None:
    pulls = []
    for mean in (-1.0, 0.0, 2.0):
        batch = pair(0.4, 1.0, mean)
        margin = batch.margin.clone().requires_grad_()
        loss = PreferenceStrength().loss(PairBatch(margin, batch.chosen_first, batch.target, batch.columns))
        pulls.append(float(torch.autograd.grad(loss.sum(), margin)[0]))
    assert pulls == sorted(pulls, reverse=True)
    assert max(pulls) < 0


@pytest.mark.parametrize("settings", [{"margin_coef": -0.1}, {"margin_coef": math.inf}, {"label_smoothing": 0.5}])
def test_bad_settings_are_named(settings: dict[str, Any]) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"PreferenceStrength.{name} is {value}; expected"):
        PreferenceStrength(**settings)


NAN = float("nan")


def test_the_weakest_are_those_whose_label_has_the_least_support() -> None:
    mean = torch.tensor([0.5, -0.4, -0.9, -2.0, NAN, 0.1, 0.2], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.5, 1.0, 0.2, 0.8], dtype=torch.float64)
    # Supports: 0.5, -0.4, 0.9, none of a tie, none without a vote, -0.1, 0.2; five that count.
    expected = {0.0: [], 0.19: [], 0.2: [1], 0.4: [1, 5], 0.6: [1, 5, 6], 0.99: [0, 1, 5, 6]}
    for share, rows in expected.items():
        assert weakest(mean, labels, share).nonzero()[:, 0].tolist() == rows
