"""SimPO against figures and identities that did not come from this repository."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import SimPO, evaluate
from tests.helpers.preference_figures import PAIRS, POLICY


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Both are also what TRL 1.16's CPOTrainer gave, `loss_type` simpo; ln 2 where the means differ by gamma / beta.
        ({"beta": 2.5, "gamma": 1.375}, [1.136871, 2.463939]),
        ({"beta": 2.0, "gamma": 0.5}, [math.log(2), 2 * 1.117078 - math.log(2)]),
    ],
)
def test_losses_are_those_of_other_implementations(settings: dict[str, float], expected: list[float]) -> None:
    assert evaluate(SimPO(**settings), **POLICY).tolist() == pytest.approx(expected, abs=2e-6)


def test_the_defaults_are_those_of_the_authors() -> None:
    torch.testing.assert_close(evaluate(SimPO(), **POLICY), evaluate(SimPO(2.0, 0.25 * 2.0), **POLICY))


def test_a_reference_is_not_read() -> None:
    assert torch.equal(evaluate(SimPO(), **PAIRS), evaluate(SimPO(), **POLICY))


@given(times=st.integers(2, 4), gamma=st.floats(0, 2))
def test_a_response_may_be_repeated_but_not_grow(times: int, gamma: float) -> None:
    """The loss depends on means alone, while tokens that are appended count."""
    once = evaluate(SimPO(gamma=gamma), **POLICY)
    torch.testing.assert_close(
        evaluate(SimPO(gamma=gamma), chosen=[row * times for row in PAIRS["chosen"]], rejected=PAIRS["rejected"]), once
    )
    longer = [[*row, -3.0] for row in PAIRS["chosen"]]
    assert (evaluate(SimPO(gamma=gamma), longer, PAIRS["rejected"]) > once).all()


def test_with_equal_lengths_and_no_margin_it_is_dpo_without_a_reference_and_beta_per_token() -> None:
    chosen, rejected = [[-0.2, -0.9, -1.4]], [[-0.7, -1.2, -0.4]]
    found = evaluate(SimPO(beta=2.0, gamma=0.0), chosen, rejected)
    assert found.item() == pytest.approx(F.softplus(torch.tensor(2.0 / 3 * (-2.3 + 2.5))).item())


def test_a_tie_is_drawn_to_equal_rewards_whatever_gamma() -> None:
    chosen = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    rejected = [torch.tensor([-1.0, -1.0], dtype=torch.float64)]
    (gradient,) = torch.autograd.grad(evaluate(SimPO(gamma=1.5), [chosen], rejected, target=[0.5]).sum(), [chosen])
    assert gradient.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "SimPO.beta is 0.0; expected a finite number above 0"),
        ({"gamma": -0.1}, "SimPO.gamma is -0.1; expected a finite number of at least 0"),
        ({"gamma": math.inf}, "SimPO.gamma is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimPO(**settings)
