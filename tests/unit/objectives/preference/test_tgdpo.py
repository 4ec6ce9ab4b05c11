"""TGDPO against figures and identities that did not come from this repository."""

import logging
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, TGDPO, evaluate
from tests.helpers.preference_figures import PAIRS

GUIDE: dict[str, Any] = {
    "guide_chosen": [[-0.3, -0.8, -1.3, -0.4], [-0.2, -1.5]],
    "guide_rejected": [[-0.9, -1.3, -0.8, -1.8, -0.9, -1.2], [-0.4, -0.9, -0.3]],
}


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 0.642759), (2.0, 0.637865)])
def test_losses_are_those_by_hand(alpha: float, expected: float) -> None:
    found = evaluate(TGDPO(0.1, alpha), **PAIRS, **GUIDE)
    assert found[0].item() == pytest.approx(expected, abs=1e-6)


@given(beta=st.floats(0.01, 2), alpha=st.floats(0, 3), label=st.floats(0, 1))
def test_without_alpha_or_a_guide_of_its_own_it_is_dpo(beta: float, alpha: float, label: float) -> None:
    expected = evaluate(DPO(beta), **PAIRS, target=[1.0, label])
    found = evaluate(TGDPO(beta, 0.0), **PAIRS, **GUIDE, target=[1.0, label])
    torch.testing.assert_close(found, expected)
    reference = {"guide_chosen": PAIRS["ref_chosen"], "guide_rejected": PAIRS["ref_rejected"]}
    torch.testing.assert_close(evaluate(TGDPO(beta, alpha), **PAIRS, **reference, target=[1.0, label]), expected)


def test_loss_and_gradients_equal_the_formula_token_by_token() -> None:
    """With the reward of each token, and its weight, written out."""
    beta, alpha = 0.3, 0.7
    leaves = {
        name: [torch.tensor(row).double().requires_grad_() for row in PAIRS[name]] for name in ("chosen", "rejected")
    }
    guide = {name: [torch.tensor(row).double().requires_grad_() for row in rows] for name, rows in GUIDE.items()}
    expected = []
    for pair in range(2):
        sums = []
        for side, sign in (("chosen", 1), ("rejected", -1)):
            total = torch.zeros((), dtype=torch.float64)
            for token, policy in enumerate(leaves[side][pair]):
                reference = PAIRS[f"ref_{side}"][pair][token]
                reward = beta * (GUIDE[f"guide_{side}"][pair][token] - reference)
                total = total + beta * (1 + sign * alpha * reward) * (policy - reference)
            sums.append(total)
        expected.append(-F.logsigmoid(sums[0] - sums[1]))
    references = {name: PAIRS[name] for name in ("ref_chosen", "ref_rejected")}
    found = evaluate(TGDPO(beta, alpha), **leaves, **references, **guide)
    torch.testing.assert_close(found, torch.stack(expected))
    policy = [row for rows in leaves.values() for row in rows]
    theirs = torch.autograd.grad(torch.stack(expected).sum(), policy)
    for one, two in zip(torch.autograd.grad(found.sum(), policy, retain_graph=True), theirs, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, two)
    constants = [row for rows in guide.values() for row in rows]
    assert torch.autograd.grad(found.sum(), constants, allow_unused=True) == (None,) * 4


@given(label=st.floats(0, 1))
def test_a_soft_label_is_the_share_of_each_order(label: float) -> None:
    sure = evaluate(TGDPO(0.3, 1.0), **PAIRS, **GUIDE)
    names = ("chosen", "ref_chosen", "guide_chosen")
    other = {each: each.replace("chosen", "rejected") for each in names}
    turned = {**other, **{rejected: chosen for chosen, rejected in other.items()}}
    swapped = {name: {**PAIRS, **GUIDE}[source] for name, source in turned.items()}
    wrong = evaluate(TGDPO(0.3, 1.0), **swapped)
    found = evaluate(TGDPO(0.3, 1.0), **PAIRS, **GUIDE, target=[label, label])
    torch.testing.assert_close(found, label * sure + (1 - label) * wrong)


def test_a_token_that_would_be_learnt_the_wrong_way_round_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    objective = TGDPO(1.0, 1.0)
    with caplog.at_level(logging.WARNING):
        evaluate(objective, **PAIRS, **GUIDE)  # weights from 0.1 up
        assert not caplog.records
        far = {**GUIDE, "guide_rejected": [GUIDE["guide_rejected"][0], [-0.4, -0.9, 0.0]]}
        moved = {**PAIRS, "ref_rejected": [PAIRS["ref_rejected"][0], [-0.9, -0.6, -1.5]]}
        for _ in range(2):
            evaluate(objective, **moved, **far)
    (record,) = caplog.records
    assert "weight 1 + alpha r or 1 - alpha r below 0" in record.getMessage()
    assert "alpha (1) or beta (1)" in record.getMessage()


def test_the_other_order_of_a_sure_label_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where the guide likes a token of chosen very much, its weight is negative only with the responses swapped."""
    references = {"ref_chosen": [[-3.0]], "ref_rejected": [[-1.0]]}
    given = {"guide_chosen": [[-1.0]], "guide_rejected": [[-1.0]], "chosen": [[-1.0]], "rejected": [[-1.0]]}
    with caplog.at_level(logging.WARNING):
        evaluate(TGDPO(1.0, 1.0), **given, **references)
        assert not caplog.records
        evaluate(TGDPO(1.0, 1.0), **given, **references, target=[0.9])
    assert len(caplog.records) == 1


def test_a_guide_has_to_be_given() -> None:
    with pytest.raises(ValueError, match=r"TGDPO needs guide_chosen \(a guide that it declares\), which is not given"):
        evaluate(TGDPO(), **PAIRS)
    with pytest.raises(ValueError, match=r"chosen\[1\] has 2 tokens and guide_chosen\[1\] 1; both read one response"):
        evaluate(TGDPO(), **PAIRS, **{**GUIDE, "guide_chosen": [GUIDE["guide_chosen"][0], [-1.0]]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "TGDPO.beta is 0.0; expected a finite number above 0"),
        ({"alpha": -0.5}, "TGDPO.alpha is -0.5; expected a finite number of at least 0"),
        ({"alpha": math.inf}, "TGDPO.alpha is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TGDPO(**settings)
