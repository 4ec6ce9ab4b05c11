"""BRAIn against figures and identities that did not come from this repository."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DNO, DPO, BRAIn, evaluate
from tests.helpers.preference_figures import PAIRS

PAIR: dict[str, Any] = {name: rows[:1] for name, rows in PAIRS.items()}
SHEET: dict[str, Any] = {
    "responses": [[[-1.0, -2.0], [-6.0], [-4.0]]],
    "ref_responses": [[[-1.5, -2.0], [-5.5], [-4.2]]],
    "rewards": [[1.0, -0.5, 0.2]],
}
TWO: dict[str, Any] = {
    f"{model}responses": [list(pair) for pair in zip(PAIRS[f"{model}chosen"], PAIRS[f"{model}rejected"], strict=True)]
    for model in ("", "ref_")
}
"""Chosen and rejected as lists of two."""


def leaves(rows: list[list[list[float]]]) -> list[list[torch.Tensor]]:
    return [[torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in some] for some in rows]


def test_the_divergence_and_the_weights_of_the_sheet() -> None:
    assert evaluate(BRAIn(), **PAIR, **SHEET).tolist() == pytest.approx([0.030736], abs=1e-6)
    responses = leaves(SHEET["responses"])
    evaluate(BRAIn(), **PAIR, **{**SHEET, "responses": responses}).sum().backward()
    weights = [-float(each.grad[0]) for each in responses[0] if each.grad is not None]
    assert weights == pytest.approx([0.123696, -0.041044, -0.082652], abs=1e-6)
    assert sum(weights) == pytest.approx(0, abs=1e-12)


def test_a_proposal_of_its_own_is_divided_out() -> None:
    """With the weights written out: a of p e^(r / temperature) / q, b of pi / q."""
    proposal, temperature = [-2.0, -5.0, -4.5], 0.5
    sums = [[sum(row) for row in SHEET[name][0]] for name in ("responses", "ref_responses")]
    a = [math.exp(p - q + r / temperature) for p, q, r in zip(sums[1], proposal, SHEET["rewards"][0], strict=True)]
    b = [math.exp(pi - q) for pi, q in zip(sums[0], proposal, strict=True)]
    a, b = ([each / sum(some) for each in some] for some in (a, b))
    expected = sum(one * math.log(one / two) for one, two in zip(a, b, strict=True))
    objective = BRAIn(temperature, proposal="column")
    found = evaluate(objective, **PAIR, **SHEET, proposal_logprobs=[proposal])
    assert found.tolist() == pytest.approx([expected])
    same = evaluate(objective, **PAIR, **SHEET, proposal_logprobs=[sums[1]])
    torch.testing.assert_close(same, evaluate(BRAIn(temperature), **PAIR, **SHEET))


def test_two_responses_and_a_sure_reward_are_dpo_with_a_beta_of_one() -> None:
    expected = evaluate(DPO(1.0), **PAIRS)
    assert expected[0].item() == pytest.approx(0.313262, abs=1e-6)
    found = evaluate(BRAIn(0.01), **PAIRS, **TWO, rewards=[[1.0, 0.0]] * 2)  # e^-100 for the other
    torch.testing.assert_close(found, expected)


@given(st.floats(0.5, 1), st.floats(0, 0.5))
def test_two_responses_are_dno_up_to_the_entropy_of_the_label(first: float, second: float) -> None:
    expected = evaluate(DNO(1.0), **PAIRS, chosen_win_rate=[first] * 2, rejected_win_rate=[second] * 2)
    label = 1 / (1 + math.exp(second - first))
    entropy = -label * math.log(label) - (1 - label) * math.log(1 - label)
    found = evaluate(BRAIn(), **PAIRS, **TWO, rewards=[[first, second]] * 2)
    torch.testing.assert_close(found + entropy, expected)


def test_a_policy_that_is_the_posterior_learns_nothing_of_any_sample() -> None:
    rewards = [1.0, -0.5, 0.2]
    responses = leaves([[[-7.0 + reward] for reward in rewards]])
    given_lists = {"responses": responses, "ref_responses": [[[-6.0]] * 3], "rewards": [rewards]}
    loss = evaluate(BRAIn(), **PAIR, **given_lists)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss.sum().backward()
    assert all(each.grad is not None and each.grad.abs().max() < 1e-12 for each in responses[0])


def test_the_length_of_the_longest_list_of_a_batch_changes_nothing() -> None:
    both = {name: [*SHEET[name], SHEET[name][0][:2]] for name in SHEET}
    found = evaluate(BRAIn(), **PAIRS, **both)
    alone = [evaluate(BRAIn(), **PAIR, **{name: [rows[n]] for name, rows in both.items()}) for n in range(2)]
    torch.testing.assert_close(found, torch.cat(alone))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "BRAIn.temperature is 0.0; expected a finite number above 0"),
        ({"proposal": "policy"}, "BRAIn.proposal is 'policy'; expected reference or column"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BRAIn(**settings)
