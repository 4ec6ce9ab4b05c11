import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.kl import token_kl
from prl.rl.kl_controller import AdaptiveKL, FixedKL

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.5, 0.1], dtype=torch.float64)
TRUE_KL = (P * (P / Q).log()).sum().item()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_have_the_true_kl_as_their_mean(estimator) -> None:
    assert (P * token_kl(P.log(), Q.log(), estimator)).sum().item() == pytest.approx(TRUE_KL, abs=1e-14)


def test_k2_is_half_the_squared_difference() -> None:
    assert token_kl(torch.tensor([-1.0]), torch.tensor([-1.5]), "k2").item() == 0.125


def test_the_direction_is_policy_over_reference() -> None:
    assert token_kl(torch.tensor([-1.0]), torch.tensor([-1.5]), "k1").item() == 0.5


@given(st.floats(-50, 50, width=32))
def test_k3_is_never_negative(difference) -> None:
    assert token_kl(torch.tensor([difference]), torch.zeros(1), "k3").item() >= 0


def test_equal_policies_have_no_kl() -> None:
    logprobs = torch.randn(3, 4)
    for estimator in ("k1", "k2", "k3"):
        assert torch.equal(token_kl(logprobs, logprobs.clone(), estimator), torch.zeros(3, 4))


def test_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="'k4'; known: k1, k2, k3"):
        token_kl(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize(
    ("measured", "factor"),
    [
        (6.0, 1.0),  # on target
        (6.6, 1 + 0.1 * 0.05),  # 10 % above
        (5.4, 1 - 0.1 * 0.05),
        (60.0, 1 + 0.2 * 0.05),  # far above: the error is clipped at 0.2
        (0.0, 1 - 0.2 * 0.05),
    ],
)
def test_adaptive_coefficient_by_hand(measured, factor) -> None:
    controller = AdaptiveKL(0.1, target=6.0, horizon=10_000)
    controller.update(measured, num_sequences=500)
    assert controller.coef == pytest.approx(0.1 * factor, rel=1e-12)


def test_adaptive_state_round_trip() -> None:
    first, second = AdaptiveKL(0.1, 6.0, 1000), AdaptiveKL(0.7, 6.0, 1000)
    first.update(9.0, 64)
    second.load_state_dict(first.state_dict())
    assert second.coef == first.coef != 0.1
    for controller in (first, second):
        controller.update(2.0, 64)
    assert second.coef == first.coef


def test_fixed_coefficient_stays_and_comes_from_the_configuration() -> None:
    controller = FixedKL(0.05)
    controller.update(100.0, 64)
    assert controller.coef == 0.05
    controller.load_state_dict({"coef": 0.9})
    assert controller.coef == 0.05
