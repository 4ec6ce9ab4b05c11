"""VPO against figures and identities that did not come from this repository."""

from typing import Any

import pytest
import torch

from prl.objectives.preference import DPO, RPO, VPO, evaluate
from tests.helpers.preference_figures import PAIRS

SAMPLES = {"calibration": PAIRS["chosen"], "ref_calibration": PAIRS["ref_chosen"]}


def test_losses_are_those_of_the_formula_by_hand() -> None:
    offline, online = VPO(alpha=1.0), VPO(alpha=1.0, optimistic=True)
    assert evaluate(offline, **PAIRS).tolist() == pytest.approx([0.594397, 0.718760], abs=1e-6)
    assert evaluate(online, **PAIRS, **SAMPLES).tolist() == pytest.approx([0.694397, 0.738760], abs=1e-6)


def test_without_weight_and_between_optimism_and_pessimism_it_is_dpo() -> None:
    labels = {"target": [0.9, 0.3]}
    expected = evaluate(DPO(0.3), **PAIRS, **labels)
    assert torch.equal(evaluate(VPO(0.3, 0.0), **PAIRS, **labels), expected)
    sure = evaluate(VPO(0.3, 0.7), **PAIRS), evaluate(VPO(0.3, 0.7, optimistic=True), **PAIRS, **SAMPLES)
    torch.testing.assert_close((sure[0] + sure[1]) / 2, evaluate(DPO(0.3), **PAIRS))


def gradients(objective: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [torch.tensor(PAIRS[name][0], dtype=torch.float64, requires_grad=True) for name in list(PAIRS)[:2]]
    reference = [[torch.tensor(PAIRS[name][0], dtype=torch.float64)] for name in list(PAIRS)[2:]]
    loss = evaluate(objective, [leaves[0]], [leaves[1]], *reference, target=[0.7])
    return loss.detach(), list(torch.autograd.grad(loss.sum(), leaves))


def test_pessimism_is_the_cumulative_form_of_rpo_up_to_what_the_reference_says() -> None:
    (loss, found), (of_rpo, expected) = gradients(VPO(0.1, 0.8)), gradients(RPO(0.1, 0.8))
    of_reference = 0.7 * sum(PAIRS["ref_chosen"][0]) + 0.3 * sum(PAIRS["ref_rejected"][0])
    torch.testing.assert_close(loss, of_rpo + 0.1 * 0.8 * of_reference)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_rewards_that_are_calibrated_have_the_value_of_the_term() -> None:
    """A made-up bandit: the optimal value beta log E_ref exp(r / beta) is -beta E_cal rho once E_cal r is 0."""
    reference, calibration = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.6, 0.1, 0.3]).double()
    rewards = torch.tensor([1.0, -0.5, 0.2]).double()
    rewards = rewards - (calibration * rewards).sum()
    value = 0.4 * (reference * (rewards / 0.4).exp()).sum().log()
    rho = rewards / 0.4 - value / 0.4  # the optimal policy over the reference
    assert value.item() == pytest.approx(-0.4 * (calibration * rho).sum().item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "VPO.beta is 0.0; expected a finite number above 0"),
        ({"alpha": -0.1}, "VPO.alpha is -0.1; expected a finite number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VPO(**settings)


def test_only_optimism_reads_samples() -> None:
    with pytest.raises(ValueError, match="VPO needs calibration"):
        evaluate(VPO(optimistic=True), **PAIRS)
    assert VPO().views == VPO.views == ("chosen", "rejected")
