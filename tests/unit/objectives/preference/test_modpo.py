"""MODPO against figures and identities that did not come from this repository."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, MODPO, evaluate
from tests.helpers.preference_figures import PAIRS
from tests.unit.objectives.preference.test_tgdpo import GUIDE

REWARDS: dict[str, Any] = {"chosen_margin_reward": [0.2, 0.5], "rejected_margin_reward": [0.6, -0.1]}


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.5, [0.437488, 1.130090]), (0.1, [0.010002])],
)
def test_losses_are_those_by_hand(weight: float, expected: list[float]) -> None:
    found = evaluate(MODPO(weight), **PAIRS, **REWARDS)
    assert found[: len(expected)].tolist() == pytest.approx(expected, abs=1e-6)


@given(beta=st.floats(0.01, 2), label=st.floats(0, 1))
def test_with_all_the_weight_it_is_dpo(beta: float, label: float) -> None:
    given = {**PAIRS, "target": [1.0, label]}
    expected = evaluate(DPO(beta), **given)
    assert torch.equal(evaluate(MODPO(1.0, beta), **given, **REWARDS), expected)
    assert torch.equal(evaluate(MODPO(1.0, beta, "guide"), **given, **GUIDE), expected)


@given(shift=st.floats(-5, 5), weight=st.floats(0.05, 0.95), label=st.floats(0, 1))
def test_equal_rewards_cancel_and_leave_a_larger_beta(shift: float, weight: float, label: float) -> None:
    even = {name: [shift, shift] for name in REWARDS}
    found = evaluate(MODPO(weight, 0.2), **PAIRS, **even, target=[label, 1.0])
    torch.testing.assert_close(found, evaluate(DPO(0.2 / weight), **PAIRS, target=[label, 1.0]))
    moved = {name: [value + shift for value in values] for name, values in REWARDS.items()}
    before, after = (evaluate(MODPO(weight), **PAIRS, **each) for each in (REWARDS, moved))
    torch.testing.assert_close(after, before)


def test_a_guide_gives_the_rewards_of_its_log_ratios() -> None:
    """Sums of guide and reference: -2.8 and -3.5, -6.9 and -5.5; -1.7 and -1.7, -1.6 and -2.0."""
    rewards = {"chosen_margin_reward": [0.3 * 0.7, 0.0], "rejected_margin_reward": [0.3 * -1.4, 0.3 * 0.4]}
    found = evaluate(MODPO(0.4, 0.3, "guide"), **PAIRS, **GUIDE)
    torch.testing.assert_close(found, evaluate(MODPO(0.4, 0.3), **PAIRS, **rewards))


def test_no_gradient_reaches_the_guide_and_the_reference_as_guide_is_dpo_with_a_larger_beta() -> None:
    guide = {name: [torch.tensor(row).double().requires_grad_() for row in rows] for name, rows in GUIDE.items()}
    policy = {name: [torch.tensor(row).double().requires_grad_() for row in rows] for name, rows in PAIRS.items()}
    loss = evaluate(MODPO(margin="guide"), **policy, **guide).sum()
    constants = [row for rows in guide.values() for row in rows]
    assert torch.autograd.grad(loss, constants, allow_unused=True) == (None,) * 4
    reference = {"guide_chosen": PAIRS["ref_chosen"], "guide_rejected": PAIRS["ref_rejected"]}
    found = evaluate(MODPO(0.5, 0.1, "guide"), **PAIRS, **reference)
    torch.testing.assert_close(found, evaluate(DPO(0.2), **PAIRS))


def test_what_is_read_follows_the_source_of_rewards() -> None:
    assert (MODPO().columns, MODPO().guides) == (("chosen_margin_reward", "rejected_margin_reward"), ())
    assert (MODPO(margin="guide").columns, MODPO(margin="guide").guides) == ((), ("guide",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "MODPO.beta is 0.0; expected a finite number above 0"),
        ({"weight": 0.0}, "MODPO.weight is 0.0; expected a number above 0 and at most 1"),
        ({"weight": 1.5}, "MODPO.weight is 1.5"),
        ({"margin": "judge"}, "MODPO.margin is 'judge'; expected columns or guide"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODPO(**settings)
