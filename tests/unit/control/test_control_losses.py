"""OPPO's losses: figures computed apart, what the margin does, and which parameters each loss moves."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prl.control import ConditionedPolicy, Window, norm_loss, reconstruction_loss, triplet_loss
from prl.control.oppo import LossWeights, counts, read_pairs, step_loss
from tests.helpers.control import a_batch, a_policy

MARGIN = 50.0
"""Kept by no pair, so that every pair has a gradient."""


def swapped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {f"{other[name.partition('_')[0]]}_{name.partition('_')[2]}": value for name, value in batch.items()}


def parts_of(policy: ConditionedPolicy, batch: dict[str, Tensor], **weights: Any) -> dict[str, Tensor]:
    chosen = LossWeights(**{"margin": MARGIN, **weights})
    rows = read_pairs(policy, batch, chosen.margin)
    return step_loss(rows, {name: total.sum() for name, total in counts(batch).items()}, chosen)


def gradients(policy: ConditionedPolicy, loss: Tensor) -> dict[str, Tensor | None]:
    """Gradient of every parameter; None where the loss does not reach it."""
    names, parameters = zip(*policy.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def moved(found: dict[str, Tensor | None]) -> set[str]:
    return {name.partition(".")[0] for name, gradient in found.items() if gradient is not None and gradient.any()}


@pytest.mark.parametrize(
    ("chosen", "rejected", "triplet", "norm"),
    [((0.4, 0.6), (0.5, -0.2), 1.310010, 0.290747), ((0.8, 0.2), (-0.3, 0.9), 0.0, 0.033391)],
)
def test_figures_by_hand(chosen, rejected, triplet, norm) -> None:
    """To all digits of the figures, with the 1e-6 that torch adds to differences."""
    optimum, z, other = torch.tensor([1.0, 0.0]), torch.tensor([chosen]), torch.tensor([rejected])
    assert triplet_loss(optimum, z, other).item() == pytest.approx(triplet, abs=5.1e-7)
    assert (norm_loss(z) + norm_loss(other)).item() == pytest.approx(norm, abs=5.1e-7)


def test_losses_beside_numpy() -> None:
    draw = np.random.default_rng(0)
    optimum, chosen, rejected = draw.normal(size=4), draw.normal(size=(6, 4)), draw.normal(size=(6, 4))
    near, far = (np.sqrt(((optimum - each + 1e-6) ** 2).sum(1)) for each in (chosen, rejected))
    found = triplet_loss(*map(torch.from_numpy, (optimum, chosen, rejected)), margin=0.7)
    np.testing.assert_allclose(found, np.maximum(0, near - far + 0.7), rtol=1e-12)
    assert 0 < (found > 0).sum() < 6
    predicted, actions = draw.normal(size=(2, 2, 3, 2))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    found = reconstruction_loss(*map(torch.from_numpy, (predicted, actions, mask)))
    errors = (predicted - actions) ** 2
    np.testing.assert_allclose(found, [errors[0, :2].sum() / 2, errors[1, 0].sum() / 2], rtol=1e-12)


def test_no_gradient_once_the_margin_is_kept() -> None:
    places: tuple[Any, ...] = ([1.0, 0.0], [[0.8, 0.2]], [[-0.3, 0.9]])
    optimum, chosen, rejected = (torch.tensor(each, requires_grad=True) for each in places)
    kept = torch.autograd.grad(triplet_loss(optimum, chosen, rejected).sum(), (optimum, chosen, rejected))
    assert not any(each.any() for each in kept)
    missed = torch.autograd.grad(triplet_loss(optimum, rejected, chosen).sum(), (optimum, chosen, rejected))
    assert all(each.any() for each in missed)


def test_swapped_labels_mirror_the_gradient() -> None:
    policy, batch = a_policy(), a_batch()
    there = gradients(policy, parts_of(policy, batch)["loss"])["optimum"]
    back = gradients(policy, parts_of(policy, swapped(batch))["loss"])["optimum"]
    assert there is not None
    torch.testing.assert_close(there, -back)
    assert there.norm() > 1e-3


def test_each_loss_moves_its_own_parameters() -> None:
    policy, batch = a_policy(), a_batch()
    expected = {"reconstruction": {"encoder", "decoder"}, "norm": {"encoder"}, "preference": {"encoder"}}
    for name, parts in expected.items():
        assert moved(gradients(policy, parts_of(policy, batch)[name])) == parts, name
    rows = read_pairs(policy, batch, MARGIN)
    assert moved(gradients(policy, rows["optimum"].sum())) == {"optimum"}
    assert not rows["distance"].requires_grad


def test_one_step_has_the_gradients_of_the_authors_two() -> None:
    """Encoder and decoder as in their first step; z* as in their second, with the latents before the first."""
    policy, batch = a_policy(), a_batch()
    found = gradients(policy, parts_of(policy, batch, preference=0.3, norm=0.2)["loss"])
    sides = [Window.of(batch, side) for side in ("chosen", "rejected")]
    latents = [policy.encode(side) for side in sides]
    first = torch.zeros(())
    for side, latent in zip(sides, latents, strict=True):
        predicted = policy.reconstruct(side, latent)
        first = first + nn.functional.mse_loss(predicted[side.mask], side.actions[side.mask])
        first = first + 0.2 * nn.functional.mse_loss(latent.norm(dim=1), torch.ones(3))
    triplet = nn.TripletMarginLoss(margin=MARGIN)
    first = first + 0.3 * triplet(policy.optimum.expand(3, -1).detach(), *latents)
    second = triplet(policy.optimum.expand(3, -1), *(each.detach() for each in latents))
    expected = gradients(policy, first) | {"optimum": gradients(policy, second)["optimum"]}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_preference_weight_0_is_an_auto_encoder() -> None:
    """Labels then reach neither encoder nor decoder."""
    policy, batch = a_policy(), a_batch()
    there, back = (
        gradients(policy, parts_of(policy, each, preference=0.0)["loss"]) for each in (batch, swapped(batch))
    )
    with_labels = gradients(policy, parts_of(policy, batch, preference=0.1)["loss"])
    name = "encoder.to_latent.weight"
    torch.testing.assert_close(there[name], back[name])
    assert not torch.allclose(with_labels[name], there[name])


@pytest.mark.parametrize(("name", "value"), [("preference", -0.1), ("norm", -1.0), ("margin", -1.0)])
def test_weights_below_0_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"weights.{name} is {value}"):
        LossWeights(**{name: value})
