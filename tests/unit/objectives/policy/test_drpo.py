"""DRPO against figures that did not come from this repository."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prl.objectives.policy import DRPO
from prl.types import Experience
from tests.helpers.policy_batches import loss_of, of_prompts

FREE: dict[str, Any] = {"kl_coef": 0.0}
SCORES, LENGTHS, REWARDS = [-0.5, -0.8, -0.6, -1.0], [2, 6, 3, 5], [1.0, 1.0, 0.0, 0.0]


def responses(rewards: list[float] = REWARDS, lengths: list[int] = LENGTHS) -> Experience:
    return of_prompts([0] * len(lengths), lengths, rewards=rewards, max_new_tokens=10)


def constant(scores: list[float], experience: Experience) -> Tensor:
    """Give each token of a response its mean log-probability."""
    mask = experience.rollout.response_mask
    return (torch.tensor(scores, dtype=torch.float64)[:, None] * mask).requires_grad_()


def found(objective: DRPO, experience: Experience, scores: list[float]) -> tuple[float, list[float]]:
    """Compute the loss and its derivative by each response's mean log-probability."""
    logprobs = constant(scores, experience)
    loss = loss_of(objective, experience, logprobs).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient.sum(1).tolist()


def test_the_objective_and_gradient_of_the_sheet() -> None:
    """Two right answers of 0.2 and 0.6 of the longest, two wrong ones."""
    loss, gradient = found(DRPO(**FREE), responses(), SCORES)
    assert -loss == pytest.approx(0.292604, abs=1e-6)
    assert [-each for each in gradient] == pytest.approx([0.982014, 0.017986, -0.509999, -0.490001], abs=1e-6)
    assert sum(gradient) == pytest.approx(0, abs=1e-9)


def test_limits_of_both_temperatures() -> None:
    _, gradient = found(DRPO(**FREE, length_temperature=1e9), responses(), SCORES)
    assert [-each for each in gradient[:2]] == pytest.approx([0.5, 0.5])
    loss, gradient = found(DRPO(**FREE, tau=1e7), responses(), SCORES)
    assert gradient[2:] == pytest.approx([0.5, 0.5])
    assert -loss == pytest.approx(0.982014 * -0.5 + 0.017986 * -0.8 + 0.8, abs=1e-5)
    _, gradient = found(DRPO(**FREE, tau=1e-4), responses(), SCORES)
    assert gradient[2:] == pytest.approx([1.0, 0.0])  # the likeliest wrong one


def test_no_right_answer_is_pushed_down_however_long() -> None:
    _, gradient = found(DRPO(**FREE), responses([1.0, 1.0, 1.0, 0.0], [1, 9, 10, 2]), SCORES)
    assert all(each <= 0 for each in gradient[:3])
    assert gradient[3] > 0


@pytest.mark.parametrize("rewards", [[1.0] * 4, [0.0] * 4])
def test_prompts_all_right_or_all_wrong_say_nothing_but_are_counted(rewards: list[float]) -> None:
    assert found(DRPO(**FREE), responses(rewards), SCORES) == (0, [0] * 4)
    both = of_prompts([0] * 4 + [1] * 4, LENGTHS * 2, rewards=REWARDS + rewards, max_new_tokens=10)
    output = loss_of(DRPO(**FREE), both, constant(SCORES * 2, both))
    assert -output.loss.item() == pytest.approx(0.292604 / 2, abs=1e-6)
    assert output.stats["discriminated"].item() == pytest.approx(0.5)


def test_the_constraint_is_off_below_its_target_and_its_factor_gets_no_gradient() -> None:
    experience = responses([0.0] * 4)  # nothing but the constraint
    step = 0.1
    kl = math.expm1(step) - step
    for coefficient, target in ((2.0, kl / 2), (2.0, 2 * kl)):
        loss, gradient = found(DRPO(kl_coef=coefficient, kl_target=target), experience, [step] * 4)
        factor = max(coefficient * (kl - target), 0)
        assert loss == pytest.approx(factor * kl)
        assert gradient == pytest.approx([factor * math.expm1(step) / 4] * 4)


def test_an_answer_that_does_not_count_is_neither_right_nor_wrong() -> None:
    more = of_prompts([0] * 6, [*LENGTHS, 0, 0], rewards=[*REWARDS, 1.0, 0.0], max_new_tokens=10)
    loss, gradient = found(DRPO(**FREE), more, [*SCORES, 0.0, 0.0])
    assert -loss == pytest.approx(0.292604, abs=1e-6)
    assert gradient[4:] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0.0}, "DRPO.tau is 0.0; expected a number above 0"),
        ({"length_temperature": -1.0}, "DRPO.length_temperature is -1.0; expected a number above 0"),
        ({"kl_coef": math.inf}, "DRPO.kl_coef is inf; expected a finite number of at least 0"),
        ({"kl_target": -0.1}, "DRPO.kl_target is -0.1; expected a finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRPO(**settings)
