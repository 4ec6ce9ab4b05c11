"""OREO against figures that did not come from this repository, and gradients written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prl.objectives.preference import OREO, evaluate
from tests.helpers.preference_figures import PAIRS

PAIR: dict[str, Any] = {name: rows[:1] for name, rows in PAIRS.items()}
RATIOS, VALUES = [0.5, -0.2, 0.3], [0.4, 0.6, 0.9]


def leaf(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def one(ratios: list[float], values: Any, reward: float = 1.0, kl: Any = None) -> tuple[dict[str, Any], Tensor]:
    """Make a list of one response with these log-ratios, and its log-probabilities, which learn."""
    policy = leaf([-1.0 + ratio for ratio in ratios])
    given = {"responses": [[policy]], "ref_responses": [[[-1.0] * len(ratios)]], "rewards": [[reward]]}
    given["values_responses"] = [[values]]
    return given | ({} if kl is None else {"kl_responses": [[kl]]}), policy


def test_both_losses_and_the_gradients_of_the_sheet() -> None:
    values = leaf(VALUES)
    given, policy = one(RATIOS, values)
    alone = evaluate(OREO(kl_coef=0, value_coef=0), **PAIR, **given)
    assert alone.tolist() == pytest.approx([0.168205], abs=1e-6)
    both = evaluate(OREO(kl_coef=0), **PAIR, **given)
    assert both.tolist() == pytest.approx([2 * 0.168205], abs=2e-6)
    both.sum().backward()
    assert policy.grad is not None
    assert values.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.011640, -0.007940, -0.001820], abs=1e-6)
    rests = [0.6, 0.1, 0.3]
    gaps = [value - 1 + 0.03 * rest for value, rest in zip(VALUES, rests, strict=True)]
    assert values.grad.tolist() == pytest.approx([2 / 3 * gap for gap in gaps])  # of the critic's loss alone


def test_of_a_whole_response_every_token_answers_for_the_first_state() -> None:
    values = leaf(VALUES)
    given, policy = one(RATIOS, values)
    loss = evaluate(OREO(kl_coef=0, level="response"), **PAIR, **given)
    gap = 0.4 - 1 + 0.03 * 0.6
    assert loss.tolist() == pytest.approx([0.168205 + gap**2], abs=1e-6)
    loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([2 * gap * 0.03] * 3)


def test_steps_have_the_losses_and_gradients_of_the_authors_code() -> None:
    """The figures come from running `loss` and `dro_loss` of jwhj/OREO (pcl_trainer.py at 6f7403b) with step_level."""
    values = leaf([0.4, 0.6, 0.9, 0.2])
    given, policy = one([0.5, -0.2, 0.3, 0.1], values)
    given["steps_responses"] = [[[0, 0, 1, 1]]]
    of_policy = evaluate(OREO(kl_coef=0, value_coef=0, step_separator="."), **PAIR, **given)
    of_both = evaluate(OREO(kl_coef=0, step_separator="."), **PAIR, **given)
    assert of_policy.tolist() == pytest.approx([0.1714925])
    assert (of_both - of_policy).tolist() == pytest.approx([0.1714925])
    of_both.sum().backward()
    assert policy.grad is not None
    assert values.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.01737, -0.01737, -0.00264, -0.00264])
    assert values.grad.tolist() == pytest.approx([-0.579, 0, -0.088, 0])


def test_steps_of_one_token_are_tokens() -> None:
    given, _ = one(RATIOS, VALUES, kl=[0.3, 0.6, 0.0])
    by_step = evaluate(OREO(step_separator="."), **PAIR, **given, steps_responses=[[[0, 1, 2]]])
    torch.testing.assert_close(by_step, evaluate(OREO(), **PAIR, **given))


def test_without_beta_the_critic_is_fitted_to_the_reward_and_the_policy_learns_nothing() -> None:
    values = leaf(VALUES)
    given, policy = one(RATIOS, values, reward=0.5)
    loss = evaluate(OREO(beta=0, kl_coef=0, value_coef=1), **PAIR, **given)
    regression = torch.nn.functional.mse_loss(leaf(VALUES), torch.full((3,), 0.5, dtype=torch.float64))
    assert loss.tolist() == pytest.approx([2 * regression.item()])
    loss.sum().backward()
    assert policy.grad is not None
    assert values.grad is not None
    assert not policy.grad.any()
    assert values.grad.tolist() == pytest.approx([2 / 3 * (value - 0.5) for value in VALUES])


@pytest.mark.parametrize("level", ["token", "response"])
def test_nothing_is_left_to_learn_where_values_are_what_the_policy_leaves(level: Any) -> None:
    values = leaf([1 - 0.03 * rest for rest in (0.6, 0.1, 0.3)])
    given, policy = one(RATIOS, values)
    loss = evaluate(OREO(kl_coef=0, level=level), **PAIR, **given)
    loss.sum().backward()
    assert policy.grad is not None
    assert values.grad is not None
    for each in (loss, policy.grad, values.grad):
        assert each.abs().max() < 1e-15


def test_the_kl_is_the_mean_over_tokens_and_a_row_the_mean_over_its_responses() -> None:
    kl = leaf([0.3, 0.6, 0.0])
    given, _ = one(RATIOS, VALUES, kl=kl)
    plain = evaluate(OREO(kl_coef=0), **PAIR, **{name: each for name, each in given.items() if name != "kl_responses"})
    loss = evaluate(OREO(kl_coef=0.5), **PAIR, **given)
    assert (loss - plain).tolist() == pytest.approx([0.5 * 0.3])
    loss.sum().backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == pytest.approx([0.5 / 3] * 3)
    two: dict[str, Any] = {
        "responses": [[[-0.5, -1.2], [-3.0]], [[-0.7]]],
        "ref_responses": [[[-0.6, -1.0], [-2.0]], [[-0.7]]],
        "values_responses": [[[0.1, 0.2], [0.3]], [[0.6]]],
        "rewards": [[1.0, 0.0], [1.0]],
    }
    each = [
        evaluate(OREO(kl_coef=0), **PAIR, **{name: [[rows[row][n]]] for name, rows in two.items()})
        for row, n in ((0, 0), (0, 1), (1, 0))
    ]
    found = evaluate(OREO(kl_coef=0), **PAIRS, **two)
    torch.testing.assert_close(found, torch.cat([(each[0] + each[1]) / 2, each[2]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "OREO.beta is -0.1; expected a finite number of at least 0"),
        ({"kl_coef": float("inf")}, "OREO.kl_coef is inf; expected a finite"),
        ({"level": "step"}, "OREO.level is 'step'; expected token or response"),
        ({"level": "response", "step_separator": "."}, "OREO.step_separator is set, but level: response has no steps"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OREO(**settings)


def test_values_and_the_kl_are_asked_for_by_name() -> None:
    given, _ = one(RATIOS, VALUES)
    with pytest.raises(ValueError, match="OREO needs kl_chosen .of this or another view, what it reads of states"):
        evaluate(OREO(), **PAIR, **given)
    with pytest.raises(ValueError, match="OREO reads no 'kl_responses'"):
        evaluate(OREO(kl_coef=0), **PAIR, **given, kl_responses=[[[0.0] * 3]])
    with pytest.raises(ValueError, match="OREO needs steps_chosen .of this or another view, what it reads of states"):
        evaluate(OREO(kl_coef=0, step_separator="."), **PAIR, **given)
    elsewhere = {**given, "steps_chosen": [[0] * 4]}
    with pytest.raises(ValueError, match="no 'steps' of these responses; .* declares it with step_separator$"):
        evaluate(OREO(kl_coef=0, step_separator="."), **PAIR, **elsewhere)
    wrong = {**given, "values_chosen": [[0.0] * 4]}
    del wrong["values_responses"]
    with pytest.raises(ValueError, match="no 'values' of these responses; .* declares it with needs_critic = True"):
        evaluate(OREO(kl_coef=0), **PAIR, **wrong)
