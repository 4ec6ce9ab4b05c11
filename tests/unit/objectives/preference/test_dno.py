"""DNO against figures and identities that did not come from this repository."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DNO, DPO, evaluate
from tests.helpers.preference_figures import PAIRS


def rates(chosen: float, rejected: float, rows: int = 2) -> dict[str, list[float]]:
    return {"chosen_win_rate": [chosen] * rows, "rejected_win_rate": [rejected] * rows}


def test_losses_are_those_by_hand() -> None:
    found = evaluate(DNO(0.1), **PAIRS, **rates(0.7, 0.4))  # a target of 0.574443
    assert found.tolist() == pytest.approx([0.686952, 0.698971], abs=1e-6)


def of_margin(margin: float, chosen: float, rejected: float) -> float:
    """Compute the loss where beta times the difference of the log-ratios is a given number."""
    given: dict[str, Any] = {"ref_chosen": [[-50.0]], "rejected": [[-50.0]], "ref_rejected": [[-50.0]]}
    return evaluate(DNO(0.1), [[-50.0 + margin / 0.1]], **given, **rates(chosen, rejected, 1)).item()


@given(chosen=st.floats(0, 1), rejected=st.floats(0, 1), off=st.sampled_from([-0.1, 0.1]))
def test_the_minimum_is_the_entropy_of_the_target_where_the_margin_is_the_lead_in_win_rate(
    chosen: float, rejected: float, off: float
) -> None:
    q = 1 / (1 + math.exp(rejected - chosen))
    least = of_margin(chosen - rejected, chosen, rejected)
    assert least == pytest.approx(-q * math.log(q) - (1 - q) * math.log(1 - q), abs=1e-9)
    assert of_margin(chosen - rejected + off, chosen, rejected) > least


def test_the_entropy_of_the_sheet_and_ln_2_for_even_responses() -> None:
    assert of_margin(0.3, 0.7, 0.4) == pytest.approx(0.682022, abs=1e-6)
    assert of_margin(0.0, 0.6, 0.6) == pytest.approx(math.log(2))


@given(label=st.floats(0, 1))
def test_with_labels_it_is_dpo(label: float) -> None:
    found = evaluate(DNO(0.2, win_rates="label"), **PAIRS, target=[1.0, label])
    assert torch.equal(found, evaluate(DPO(0.2), **PAIRS, target=[1.0, label]))
    assert evaluate(DNO(win_rates="label"), **PAIRS).tolist() == pytest.approx([0.644397, 0.728760], abs=1e-6)


def test_swapped_responses_have_the_same_loss_and_labels_say_nothing_beside_win_rates() -> None:
    found = evaluate(DNO(), **PAIRS, **rates(0.8, 0.1))
    turned = {"chosen": "rejected", "rejected": "chosen", "ref_chosen": "ref_rejected", "ref_rejected": "ref_chosen"}
    swapped = evaluate(DNO(), **{name: PAIRS[other] for name, other in turned.items()}, **rates(0.1, 0.8))
    torch.testing.assert_close(swapped, found)
    assert torch.equal(evaluate(DNO(), **PAIRS, **rates(0.8, 0.1), target=[0.2, 0.7]), found)


def test_the_target_is_that_of_a_soft_label() -> None:
    q = 1 / (1 + math.exp(-0.5))
    found = evaluate(DNO(0.3), **PAIRS, **rates(0.9, 0.4))
    torch.testing.assert_close(found, evaluate(DPO(0.3), **PAIRS, target=[q, q]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "DNO.beta is -0.1; expected a finite number above 0"),
        ({"win_rates": "hard"}, "DNO.win_rates is 'hard'; expected columns or label"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DNO(**settings)
