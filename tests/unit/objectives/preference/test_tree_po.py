"""TreePO against figures and identities that did not come from this repository."""

import itertools
import math
from typing import Any

import pytest
import torch

from prl.objectives.preference import DPO, TreePO, evaluate
from tests.helpers.preference_figures import PAIRS

PAIR: dict[str, Any] = {name: rows[:1] for name, rows in PAIRS.items()}
SCORES, REWARDS = [0.3, 0.1, -0.2, 0.0], [1.0, 0.6, -0.5, 0.2]


def lists(scores: list[float], rewards: list[float]) -> dict[str, Any]:
    return {
        "responses": [[[-2.0, score - 3.0] for score in scores]],
        "ref_responses": [[[-2.0, -3.0]] * len(scores)],
        "rewards": [rewards],
    }


def test_the_loss_of_the_sheet_in_any_order() -> None:
    for order in itertools.permutations(range(4)):
        given = lists([SCORES[n] for n in order], [REWARDS[n] for n in order])
        assert evaluate(TreePO(1.0), **PAIR, **given).tolist() == pytest.approx([1.198688], abs=1e-6)


def test_equal_scores_of_the_policy_rank_by_reward() -> None:
    """As at the start, where nothing would be learnt if equal ones shared a rank."""
    expected = sum(
        (2 ** REWARDS[i] - 2 ** REWARDS[j]) * (1 / math.log(2 + i) - 1 / math.log(2 + j)) * math.log(2)
        for i, j in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        for REWARDS in [[1.0, 0.6, 0.2, -0.5]]
    )
    for order in itertools.permutations(REWARDS):
        assert evaluate(TreePO(), **PAIR, **lists([0.0] * 4, list(order))).tolist() == pytest.approx([expected])


def test_lists_of_two_are_a_multiple_of_dpo() -> None:
    two = {
        f"{model}responses": [
            list(pair) for pair in zip(PAIRS[f"{model}chosen"], PAIRS[f"{model}rejected"], strict=True)
        ]
        for model in ("", "ref_")
    }
    found = evaluate(TreePO(0.1), **PAIRS, **two, rewards=[[1.0, 0.0]] * 2)
    torch.testing.assert_close(found, (1 / math.log(2) - 1 / math.log(3)) * evaluate(DPO(0.1), **PAIRS))
    assert found[0].item() == pytest.approx(0.343113, abs=1e-6)
    halved = evaluate(TreePO(0.1, scale=2.0), **PAIRS, **two, rewards=[[2.0, 0.0]] * 2)
    torch.testing.assert_close(halved, found)


def test_the_length_of_the_longest_list_of_a_batch_changes_nothing() -> None:
    alone = [lists(SCORES, REWARDS), lists([-0.4, 0.2], [0.9, -0.3])]  # below the 0 of empty places too
    both = {name: [*alone[0][name], *alone[1][name]] for name in alone[0]}
    found = evaluate(TreePO(1.0), **PAIRS, **both)
    torch.testing.assert_close(found, torch.cat([evaluate(TreePO(1.0), **PAIR, **each) for each in alone]))


def test_equal_rewards_say_nothing() -> None:
    assert evaluate(TreePO(), **PAIR, **lists(SCORES, [0.7] * 4)).tolist() == [0.0]
    assert evaluate(TreePO(), **PAIR, **lists([0.1], [0.7])).tolist() == [0.0]


def test_no_gradient_flows_through_the_weights() -> None:
    """They are constants of finite differences too, as long as no rank changes."""
    given = lists(SCORES, REWARDS)
    responses = [[torch.tensor(row).double().requires_grad_() for row in given["responses"][0]]]
    evaluate(TreePO(1.0), **PAIR, **{**given, "responses": responses}).sum().backward()
    gradients = [float(each.grad[1]) for each in responses[0] if each.grad is not None]
    for place, gradient in enumerate(gradients):
        moved = [
            evaluate(TreePO(1.0), **PAIR, **lists([s + step * (n == place) for n, s in enumerate(SCORES)], REWARDS))
            for step in (1e-6, -1e-6)
        ]
        assert gradient == pytest.approx(float(moved[0] - moved[1]) / 2e-6, abs=1e-6)
    assert gradients[0] < 0 < gradients[2]


def steps_of(
    ratios: list[list[float]], steps: list[list[int]], states: list[list[list[float]]], rewards: list[float]
) -> dict[str, Any]:
    """Make a list of responses; states stand before their tokens, as a model has them."""
    return {
        "responses": [[[ratio - 3.0 for ratio in each] for each in ratios]],
        "ref_responses": [[[-3.0] * len(each) for each in ratios]],
        "rewards": [rewards],
        "steps_responses": [steps],
        "hidden_responses": [states],
    }


def weighed(states: list[list[list[float]]], ratios: list[list[float]], steps: list[list[int]]) -> float:
    """Compute the margin of the first response over the second from the loss of a list of two, with beta 1."""
    loss = evaluate(TreePO(1.0, step_separator="."), **PAIR, **steps_of(ratios, steps, states, [1.0, 0.0])).item()
    return -math.log(math.expm1(loss / (1 / math.log(2) - 1 / math.log(3))))


def test_steps_count_by_how_alike_they_are() -> None:
    """Two steps with cosines of 1 and 0.2, of the sheet; the state before a step has not read it."""
    ratios, steps = [[0.15, 0.05, 0.1, 0.0], [0.1, -0.3, 0.0]], [[0, 0, 1, 1], [0, 1, 1]]
    sine = math.sqrt(1 - 0.2**2)
    states = [
        [[9.0, 9.0], [0.0, 1.0], [0.0, 3.0], [5.0, 0.0]],  # read before any token, the first, the second, the third
        [[-9.0, 9.0], [0.0, 0.5], [0.2, sine]],
    ]
    assert weighed(states, ratios, steps) == pytest.approx(0.68)
    loss = evaluate(TreePO(1.0, step_separator="."), **PAIR, **steps_of(ratios, steps, states, [1.0, 0.0]))
    assert loss.item() == pytest.approx(0.532456 * 0.409867, abs=1e-6)


def test_steps_that_are_not_alike_or_only_in_one_response_count_once() -> None:
    states = [[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    ratios, steps = [[0.3, 0.4, 0.0], [0.1, 0.0]], [[0, 1, 1], [0, 0]]
    assert weighed(states, ratios, steps) == pytest.approx(0.7 - 0.1)


def test_without_likeness_steps_are_the_plain_list_loss_and_states_get_no_gradient() -> None:
    hidden = [[torch.zeros(2, 4, dtype=torch.float64).requires_grad_() for _ in SCORES]]
    given = lists(SCORES, REWARDS)
    policy = [[torch.tensor(row).double().requires_grad_() for row in given["responses"][0]]]
    more = {"responses": policy, "hidden_responses": hidden, "steps_responses": [[[0, 1]] * len(SCORES)]}
    loss = evaluate(TreePO(1.0, step_separator="."), **PAIR, **{**given, **more})
    assert loss.tolist() == pytest.approx([1.198688], abs=1e-6)
    loss.sum().backward()
    assert all(each.grad is None for each in hidden[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "TreePO.beta is 0.0; expected a finite number above 0"),
        ({"scale": -1.0}, "TreePO.scale is -1.0; expected a finite number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreePO(**settings)


def test_rewards_whose_power_is_no_number_are_told() -> None:
    with pytest.raises(ValueError, match=r"TreePO: 2\^.reward / scale. is too large for rewards / 1; raise scale"):
        evaluate(TreePO(), **PAIR, **lists(SCORES, [2000.0, 0, 0, 0]))
