"""SFT-DPO against figures and identities that did not come from this repository."""

import pytest
import torch

from prl.objectives.preference import DPO, RPO, SFTDPO, evaluate
from tests.helpers.preference_figures import PAIRS


def test_losses_are_those_of_the_formula_by_hand() -> None:
    """DPO's figures, and 0.2 times 3 / 4 and 1.6 / 2 nats per token."""
    expected = [0.644397 + 0.2 * 0.75, 0.728760 + 0.2 * 0.8]
    assert evaluate(SFTDPO(), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


def test_it_is_dpo_without_weight_and_the_average_form_of_rpo_with_one() -> None:
    labels = {"target": [0.9, 0.3]}
    assert torch.equal(evaluate(SFTDPO(0.5, 0.0), **PAIRS, **labels), evaluate(DPO(0.5), **PAIRS, **labels))
    found, expected = (evaluate(each, **PAIRS, **labels) for each in (SFTDPO(0.5, 0.3), RPO(0.5, 0.3, "average")))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "SFTDPO.beta is 0.0; expected a finite number above 0"),
        ({"sft_weight": -0.2}, "SFTDPO.sft_weight is -0.2; expected a finite number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTDPO(**settings)
