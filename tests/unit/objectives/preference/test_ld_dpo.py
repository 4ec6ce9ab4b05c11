"""LD-DPO against figures and identities that did not come from this repository."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, LDDPO, evaluate
from tests.helpers.preference_figures import PAIRS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # All are also what TRL 1.16's DPOTrainer gave, `ld_alpha`.
        ({"alpha": 1.0}, [0.644397, 0.728760]),
        ({"alpha": 0.5}, [0.649159, 0.723597]),
        ({"alpha": 0.0}, [0.653947, 0.718460]),
        ({}, [0.649159, 0.723597]),
    ],
)
def test_losses_are_those_of_other_implementations(settings: dict[str, float], expected: list[float]) -> None:
    assert evaluate(LDDPO(**settings), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


@given(beta=st.floats(0.01, 2), label=st.floats(0, 1))
def test_with_whole_tails_it_is_dpo(beta: float, label: float) -> None:
    found, expected = (evaluate(each, **PAIRS, target=[label] * 2) for each in (LDDPO(beta, 1.0), DPO(beta)))
    torch.testing.assert_close(found, expected)


@given(alpha=st.floats(0, 1))
def test_responses_of_one_length_have_no_tail(alpha: float) -> None:
    rows = [[[-0.2, -0.9]], [[-0.7, -1.2]], [[-0.5, -1.0]], [[-0.6, -1.0]]]
    torch.testing.assert_close(evaluate(LDDPO(0.1, alpha), *rows), evaluate(DPO(0.1), *rows))


@pytest.mark.parametrize(("longer", "shared"), [("rejected", (4, 2)), ("chosen", (4, 2))])
def test_without_tails_edits_behind_the_shared_length_change_nothing(longer: str, shared: tuple[int, int]) -> None:
    pairs = dict(PAIRS)
    if longer == "chosen":
        turned = {"chosen": "rejected", "rejected": "chosen"}
        pairs |= {f"{of}{name}": PAIRS[f"{of}{other}"] for name, other in turned.items() for of in ("", "ref_")}
    edited = [[*row[:count], *(5 * each for each in row[count:])] for row, count in zip(pairs[longer], shared)]  # noqa: B905
    before, after = (evaluate(LDDPO(alpha=0.0), **{**pairs, longer: rows}) for rows in (pairs[longer], edited))
    assert torch.equal(before, after)
    assert not torch.equal(before, evaluate(LDDPO(alpha=0.1), **{**pairs, longer: edited}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "LDDPO.beta is 0.0; expected a finite number above 0"),
        ({"alpha": 1.1}, "LDDPO.alpha is 1.1; expected a number from 0 to 1"),
        ({"alpha": -0.1}, "LDDPO.alpha is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LDDPO(**settings)
