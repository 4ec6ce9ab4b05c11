"""SPPO against figures and identities that did not come from this repository."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import SPPO, evaluate
from tests.helpers.preference_figures import PAIRS

FIRST = {name: rows[:1] for name, rows in PAIRS.items()}
EVEN = {"chosen_win_rate": [0.5, 0.5], "rejected_win_rate": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("beta", "wins", "expected"), [(0.1, (0.8, 0.3), 4.25), (0.001, (0.8, 0.3), 64750.25), (0.1, (1.0, 0.0), 20.25)]
)
def test_losses_are_those_by_hand(beta: float, wins: tuple[float, float], expected: float) -> None:
    found = evaluate(SPPO(beta), **FIRST, chosen_win_rate=[wins[0]], rejected_win_rate=[wins[1]])
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_sure_labels_as_win_rates_are_half_of_what_trl_has() -> None:
    """TRL 1.16, `loss_type` sppo_hard, gave 40.5 and 57.65."""
    found = evaluate(SPPO(0.1, win_rates="label"), **PAIRS)
    assert found.tolist() == pytest.approx([40.5 / 2, 57.65 / 2], abs=1e-6)
    sure = evaluate(SPPO(0.1), **PAIRS, chosen_win_rate=[1, 1], rejected_win_rate=[0, 0])
    torch.testing.assert_close(found, sure)


def test_even_responses_are_drawn_to_the_reference() -> None:
    assert evaluate(SPPO(0.1), **PAIRS, **EVEN).tolist() == pytest.approx([0.25, 0.325])  # squares of the log-ratios
    at_reference = {**PAIRS, "chosen": PAIRS["ref_chosen"], "rejected": PAIRS["ref_rejected"]}
    assert evaluate(SPPO(), **at_reference, **EVEN).tolist() == [0.0, 0.0]


@given(win=st.floats(0, 1), beta=st.floats(0.01, 1))
def test_the_minimum_is_where_a_log_ratio_meets_its_target(win: float, beta: float) -> None:
    target = (win - 0.5) / beta
    reference = [[-100.0]]
    losses = evaluate(
        SPPO(beta), [[-100.0 + target]], reference, reference, reference, chosen_win_rate=[win], rejected_win_rate=[0.5]
    )
    assert losses.item() == pytest.approx(0, abs=1e-9)


@given(label=st.floats(0, 1))
def test_a_soft_label_as_win_rate_has_the_gradient_of_its_share_of_both_orders(label: float) -> None:
    def gradient(*parts: tuple[float, float]) -> list[float]:
        chosen = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in FIRST["chosen"]]
        given = {**FIRST, "chosen": chosen}
        losses = [weight * evaluate(SPPO(0.1, "label"), **given, target=[each]).sum() for weight, each in parts]
        return torch.autograd.grad(sum(losses, torch.zeros(())), chosen)[0].tolist()

    assert gradient((1.0, label)) == pytest.approx(gradient((label, 1.0), (1 - label, 0.0)), abs=1e-9)


def test_a_label_says_nothing_beside_win_rates() -> None:
    rates = {"chosen_win_rate": [0.8, 0.6], "rejected_win_rate": [0.3, 0.5]}
    found = (evaluate(SPPO(), **PAIRS, **rates, target=[label, label]) for label in (1.0, 0.2))
    assert torch.equal(*found)


def test_win_rates_are_columns_unless_they_are_labels() -> None:
    assert SPPO().columns == SPPO().probabilities == ("chosen_win_rate", "rejected_win_rate")
    assert SPPO(win_rates="label").columns == SPPO(win_rates="label").probabilities == ()
    with pytest.raises(ValueError, match=r"rejected_win_rate holds \[30.0\]; expected probabilities from 0 to 1"):
        evaluate(SPPO(), **FIRST, chosen_win_rate=[0.8], rejected_win_rate=[30])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "SPPO.beta is 0.0; expected a finite number above 0"),
        ({"beta": math.nan}, "SPPO.beta is nan"),
        ({"win_rates": "judge"}, "SPPO.win_rates is 'judge'; expected columns or label"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPPO(**settings)
