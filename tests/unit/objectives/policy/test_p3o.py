"""P3O against figures that did not come from this repository, and the policy gradient that it is made from."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prl.objectives.policy import P3O
from prl.objectives.policy.base import PolicyOutputs
from prl.rl.minibatch_loss import token_weights
from tests.helpers.policy_batches import loss_of, of_prompts, spread

LENGTHS = [3, 2]
FORMS = pytest.mark.parametrize("clip", ["separate", "joint"])


def pair(rewards: list[float], log_ratios: list[float], clip: Any = "separate") -> tuple[float, Tensor]:
    """Compute the loss of two responses, and the gradient of each token: D is the difference of their rewards."""
    lead = rewards[0] - rewards[1]
    logprobs = spread(log_ratios, LENGTHS).requires_grad_()
    loss = loss_of(P3O(clip), of_prompts([0, 0], LENGTHS, advantages=[lead, -lead]), logprobs).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient


def test_the_loss_of_the_sheet() -> None:
    loss, _ = pair([1.2, 0.4], [0.2, -0.3])
    assert -loss == pytest.approx(0.16, abs=1e-6)


@FORMS
def test_at_the_sampling_policy_it_is_the_pairwise_policy_gradient(clip: Any) -> None:
    """(r_1 - r_2) / 2 grad(log pi(y_1) - log pi(y_2)): each token of y_1 gets D / 2, each of y_2 the opposite."""
    _, gradient = pair([1.2, 0.4], [0.0, 0.0], clip)
    torch.testing.assert_close(-gradient, torch.tensor([[0.4] * 3, [-0.4, -0.4, 0.0]], dtype=torch.float64))


@FORMS
def test_a_number_that_is_added_to_both_rewards_changes_no_bit(clip: Any) -> None:
    plain, moved = pair([1.25, 0.5], [0.1, -0.05], clip), pair([9.25, 8.5], [0.1, -0.05], clip)
    assert plain[0] == moved[0]
    assert torch.equal(plain[1], moved[1])


@pytest.mark.parametrize(
    ("lead", "log_ratios", "loss", "gradient"),
    [
        (0.8, [0.05, -0.05], -0.04, -0.4),  # within the clip
        (0.8, [0.2, -0.1], -0.08, 0.0),  # good and far ahead: held at epsilon
        (0.8, [-0.2, 0.1], 0.12, -0.4),  # good and behind: free to come back
        (-0.8, [-0.2, 0.1], -0.08, 0.0),
    ],
)
def test_the_joint_clip_holds_the_odds_of_the_pair(
    lead: float, log_ratios: list[float], loss: float, gradient: float
) -> None:
    found, gradients = pair([lead, 0.0], log_ratios, "joint")
    assert found == pytest.approx(loss)
    assert gradients[0, 0].item() == pytest.approx(gradient)
    assert gradients[1, 0].item() == pytest.approx(-gradient)
    assert pair([0.0, lead], log_ratios[::-1], "joint")[0] == pytest.approx(loss)  # the order means nothing


@FORMS
def test_responses_weigh_alike_and_pairs_of_a_prompt_too(clip: Any) -> None:
    """Of four responses to a prompt the joint form averages over six pairs; a second prompt halves the first."""
    first, second = [0.9, -0.1, -0.5, -0.3], [0.8, -0.8]
    alone = loss_of(P3O(clip), of_prompts([0] * 4, [2] * 4, advantages=first), spread([0.1, 0.02, -0.1, 0.05], [2] * 4))
    other = loss_of(P3O(clip), of_prompts([0] * 2, [2] * 2, advantages=second), spread([0.05, -0.01], [2] * 2))
    both = loss_of(
        P3O(clip),
        of_prompts([5] * 4 + [2] * 2, [2] * 6, advantages=first + second),
        spread([0.1, 0.02, -0.1, 0.05, 0.05, -0.01], [2] * 6),
    )
    assert both.loss.item() == pytest.approx((4 * alone.loss.item() + 2 * other.loss.item()) / 6)
    if clip == "joint":
        lead = [0.1, 0.02, -0.1, 0.05]
        of_pairs = [
            (first[i] - first[j]) / 2 * max(-0.2, min(0.2, lead[i] - lead[j])) for i in range(4) for j in range(i)
        ]
        assert -alone.loss.item() == pytest.approx(sum(of_pairs) / 6 / 2)


@FORMS
def test_a_response_that_does_not_count_is_in_no_pair(clip: Any) -> None:
    experience = of_prompts([0, 0, 0], [2, 2, 0], advantages=[0.8, -0.8, 0.0])
    found = loss_of(P3O(clip), experience, spread([0.1, -0.05, 0.0], [2, 2, 0]))
    alone = loss_of(P3O(clip), of_prompts([0, 0], [2, 2], advantages=[0.8, -0.8]), spread([0.1, -0.05], [2, 2]))
    assert found.loss.item() == pytest.approx(alone.loss.item())
    lonely = loss_of(P3O("joint"), of_prompts([0, 0], [2, 0], advantages=[0.8, 0.0]), spread([0.1, 0.0], [2, 0]))
    assert lonely.loss.item() == 0
    assert lonely.stats["clip_frac"].item() == 0


def test_weights_of_filters_count() -> None:
    experience = of_prompts([0, 0, 1, 1], [2] * 4, advantages=[0.8, -0.8, 0.3, -0.3])
    weights = torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    logprobs = spread([0.1, -0.05, 0.02, 0.04], [2] * 4)
    alone = [
        loss_of(P3O("joint"), of_prompts([0, 0], [2, 2], advantages=[lead, -lead]), logprobs[rows]).loss.item()
        for lead, rows in ((0.8, slice(0, 2)), (0.3, slice(2, 4)))
    ]
    found = P3O("joint")
    mask = experience.rollout.response_mask
    weighed = replace(experience, weights=weights)
    per_token = token_weights(mask, "sequence_mean", mask.sum(), weights.sum(), weights)
    assert found(PolicyOutputs(logprobs, None), weighed, per_token).loss.item() == pytest.approx(
        0.25 * alone[0] + 0.75 * alone[1]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": "both"}, "P3O.clip is 'both'; expected separate or joint"),
        ({"clip_range": 1.0}, r"P3O.clip_range is 1.0; expected a number in \(0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P3O(**settings)
