"""RPO against figures and identities that did not come from this repository."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, RPO, evaluate
from tests.helpers.preference_figures import PAIRS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta": 0.01, "eta": 0.005, "sft_term": "cumulative"}, [0.688310, 0.696733]),
        ({"beta": 0.1, "eta": 1.0, "sft_term": "cumulative"}, [0.944397, 0.888760]),
        # What TRL 1.16's DPOTrainer gave for each pair alone, `loss_type` sigmoid and sft.
        ({"beta": 0.5, "eta": 0.2, "sft_term": "average"}, [0.624077, 1.043382]),
        ({}, [0.688310, 0.696733]),
    ],
)
def test_losses_are_those_of_other_implementations(settings: dict[str, Any], expected: list[float]) -> None:
    assert evaluate(RPO(**settings), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["cumulative", "average"])
@given(beta=st.floats(0.01, 2), label=st.floats(0, 1))
def test_without_weight_it_is_dpo(form: Any, beta: float, label: float) -> None:
    found, expected = (evaluate(each, **PAIRS, target=[label] * 2) for each in (RPO(beta, 0.0, form), DPO(beta)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("form", "more"), [("cumulative", [0.3 * 0.7] * 4), ("average", [0.7 / 4] * 4)])
def test_chosen_tokens_gain_the_weight_and_rejected_ones_nothing(form: Any, more: list[float]) -> None:
    def gradients(objective: Any) -> list[torch.Tensor]:
        leaves = [torch.tensor(PAIRS[name][0], dtype=torch.float64, requires_grad=True) for name in list(PAIRS)[:2]]
        reference = [[torch.tensor(PAIRS[name][0], dtype=torch.float64)] for name in list(PAIRS)[2:]]
        loss = evaluate(objective, [leaves[0]], [leaves[1]], *reference)
        return list(torch.autograd.grad(loss.sum(), leaves))

    (chosen, rejected), (of_dpo, rejected_of_dpo) = gradients(RPO(0.3, 0.7, form)), gradients(DPO(0.3))
    assert (of_dpo - chosen).tolist() == pytest.approx(more)
    assert torch.equal(rejected, rejected_of_dpo)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": math.nan}, "RPO.beta is nan; expected a finite number above 0"),
        ({"eta": -1.0}, "RPO.eta is -1.0; expected a finite number of at least 0"),
        ({"sft_term": "sum"}, "RPO.sft_term is 'sum'; expected cumulative or average"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RPO(**settings)
