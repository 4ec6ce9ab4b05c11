"""Flex-DPO against figures and identities that did not come from this repository."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, FlexDPO, evaluate
from tests.helpers.preference_figures import PAIRS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta_plus": 0.1, "beta_minus": 0.05}, [0.656350, 0.708260]),
        ({"beta_plus": 0.1, "beta_minus": 0.08}, [0.649159, 0.720512]),
        ({}, [0.649159, 0.720512]),
    ],
)
def test_losses_are_those_of_the_formula_by_hand(settings: dict[str, float], expected: list[float]) -> None:
    assert evaluate(FlexDPO(**settings), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


@given(beta=st.floats(0.01, 2), label=st.floats(0, 1))
def test_with_equal_betas_it_is_dpo(beta: float, label: float) -> None:
    found, expected = (evaluate(each, **PAIRS, target=[label] * 2) for each in (FlexDPO(beta, beta), DPO(beta)))
    torch.testing.assert_close(found, expected)


def test_without_beta_minus_rejected_responses_are_not_pushed() -> None:
    rejected = torch.tensor([-0.7, -1.2], dtype=torch.float64, requires_grad=True)
    chosen, reference = torch.tensor([-0.4], dtype=torch.float64), torch.tensor([-1.0, -0.2], dtype=torch.float64)
    loss = evaluate(FlexDPO(0.1, 0.0), [chosen], [rejected], [chosen - 1], [reference])
    (gradient,) = torch.autograd.grad(loss.sum(), [rejected])
    assert gradient.tolist() == [0.0, 0.0]


def test_what_both_responses_gain_counts_as_much_as_the_betas_differ() -> None:
    """DPO is blind to it."""
    moved = {name: [[row[0] - 0.1, *row[1:]] for row in PAIRS[name]] for name in ("chosen", "rejected")}
    assert (evaluate(FlexDPO(0.1, 0.05), **{**PAIRS, **moved}) > evaluate(FlexDPO(0.1, 0.05), **PAIRS)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_plus": 0.0}, "FlexDPO.beta_plus is 0.0; expected a finite number above 0"),
        ({"beta_minus": 0.2}, "FlexDPO.beta_minus is 0.2; expected a number from 0 to beta_plus, 0.1"),
        ({"beta_minus": -0.1}, "FlexDPO.beta_minus is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlexDPO(**settings)
