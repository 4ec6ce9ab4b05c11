"""f-DPO against figures, formulas and limits that did not come from this repository."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.objectives.preference import DPO, FDPO, ScoredResponses, evaluate
from prl.objectives.preference.f_dpo import EXPONENT_LIMIT
from tests.helpers.preference_figures import PAIRS

EACH: dict[str, dict[str, Any]] = {
    "reverse_kl": {"divergence": "reverse_kl"},
    "forward_kl": {"divergence": "forward_kl"},
    "js": {"divergence": "js"},
    "alpha": {"alpha": 0.5},
}
DERIVATIVES = {
    "reverse_kl": lambda u: math.log(u),
    "forward_kl": lambda u: 1 - 1 / u,
    "js": lambda u: math.log(2 * u / (1 + u)),
    "alpha": lambda u: (1 - u**-0.5) / 0.5,
}
"""f'(u) as the paper has it."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # All but the last are also what TRL 1.16's DPOTrainer gave, whose coefficient is 1 - alpha.
        ({"divergence": "reverse_kl"}, [0.644397, 0.728760]),
        ({"divergence": "forward_kl"}, [0.642395, 0.716182]),
        ({"divergence": "js"}, [0.668460, 0.706905]),
        ({"divergence": "alpha", "alpha": 0.5}, [0.643900, 0.721633]),
        ({"divergence": "alpha", "alpha": 0.3}, [0.644218, 0.724253]),
        ({}, [0.643900, 0.721633]),
    ],
)
def test_losses_are_those_of_other_implementations(settings: dict[str, Any], expected: list[float]) -> None:
    assert evaluate(FDPO(**settings), **PAIRS).tolist() == pytest.approx(expected, abs=1e-6)


def at_ratio(objective: FDPO, chosen: float, rejected: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """Compute loss and gradients of one pair with given log-ratios."""
    leaves = [torch.tensor([ratio - 1e5], dtype=dtype, requires_grad=True) for ratio in (chosen, rejected)]
    reference = [torch.tensor([-1e5], dtype=dtype)]
    loss = evaluate(objective, [leaves[0]], [leaves[1]], reference, reference).sum()
    return loss.item(), *(each.item() for each in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("name", EACH)
@given(chosen=st.floats(-8, 8), rejected=st.floats(-8, 8))
def test_rewards_are_the_derivative_of_f(name: str, chosen: float, rejected: float) -> None:
    f = DERIVATIVES[name]
    margin = 0.1 * (f(math.exp(chosen)) - f(math.exp(rejected)))
    loss, *_ = at_ratio(FDPO(0.1, **EACH[name]), chosen, rejected, torch.float64)
    assert loss == pytest.approx(math.log1p(math.exp(-abs(margin))) + max(-margin, 0), rel=1e-6, abs=1e-12)


@given(alpha=st.floats(1e-9, 1e-6))
def test_small_and_large_alphas_are_reverse_and_forward_kl(alpha: float) -> None:
    torch.testing.assert_close(evaluate(FDPO(alpha=alpha), **PAIRS), evaluate(DPO(), **PAIRS), atol=1e-6, rtol=0)
    forward = evaluate(FDPO(divergence="forward_kl"), **PAIRS)
    torch.testing.assert_close(evaluate(FDPO(alpha=1 - alpha), **PAIRS), forward, atol=1e-6, rtol=0)


def test_reverse_kl_is_dpo() -> None:
    found = evaluate(FDPO(0.3, "reverse_kl"), **PAIRS, target=[0.8, 0.4])
    assert torch.equal(found, evaluate(DPO(0.3), **PAIRS, target=[0.8, 0.4]))


@pytest.mark.parametrize(("name", "share"), [("reverse_kl", 1), ("forward_kl", 1), ("alpha", 1), ("js", 0.5)])
def test_at_the_reference_the_loss_is_ln_2_and_gradients_are_those_of_dpo(name: str, share: float) -> None:
    found = at_ratio(FDPO(0.3, **EACH[name]), 0.0, 0.0, torch.float64)
    assert found == pytest.approx((math.log(2), -0.15 * share, 0.15 * share))


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("rejected", [-1000.0, -80.0, -1.0, 1.0, 80.0, 1000.0])
@pytest.mark.parametrize("chosen", [-900.0, -81.0, -2.0, 2.0, 81.0, 900.0])
def test_extreme_ratios_have_finite_gradients_of_the_right_sign(name: str, chosen: float, rejected: float) -> None:
    loss, on_chosen, on_rejected = at_ratio(FDPO(0.1, **EACH[name]), chosen, rejected, torch.float32)
    assert all(map(math.isfinite, (loss, on_chosen, on_rejected)))
    assert loss >= 0
    assert on_chosen <= 0 <= on_rejected
    if chosen < 0 and chosen < rejected:
        assert on_chosen < 0


@pytest.mark.parametrize("name", ["forward_kl", "alpha"])
def test_beyond_the_limit_a_power_is_its_tangent(name: str) -> None:
    """The loss is the true one up to the limit, and has its value and slope there."""
    objective = FDPO(0.1, **EACH[name])
    edge = -EXPONENT_LIMIT / objective.power
    assert at_ratio(objective, edge + 1, 0.0, torch.float64)[0] == pytest.approx(
        -0.1 * DERIVATIVES[name](math.exp(edge + 1)), rel=1e-9
    )
    (before, slope, _), (after, beyond, _) = (at_ratio(objective, edge + d, 0.0, torch.float64) for d in (1e-6, -1e-6))
    assert after == pytest.approx(before, rel=1e-5)
    assert beyond == pytest.approx(slope, rel=1e-5)
    further = at_ratio(objective, edge - 100, 0.0, torch.float64)
    assert further[1] == pytest.approx(beyond)
    assert further[0] == pytest.approx(after - 100 * beyond, rel=1e-6)


def test_the_implicit_reward_is_what_the_loss_compares() -> None:
    lists = [torch.tensor(PAIRS[name][0], dtype=torch.float64)[None] for name in PAIRS]
    chosen, rejected = (
        ScoredResponses(lists[n], torch.ones_like(lists[n], dtype=torch.bool), lists[n + 2]) for n in (0, 1)
    )
    objective = FDPO(0.1, "js")
    margin = objective.reward(chosen) - objective.reward(rejected)
    assert torch.nn.functional.softplus(-margin).item() == pytest.approx(0.668460, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "FDPO.beta is -1.0; expected a finite number above 0"),
        ({"divergence": "kl"}, "FDPO.divergence is 'kl'; expected reverse_kl, forward_kl, js or alpha"),
        ({"alpha": 0.0}, "FDPO.alpha is 0.0; expected a number between 0"),
        ({"alpha": 1.0}, "FDPO.alpha is 1.0; expected a number between 0"),
        ({"divergence": "js", "alpha": 0.5}, "FDPO.alpha is 0.5, but divergence 'js' has none; leave it out"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FDPO(**settings)
