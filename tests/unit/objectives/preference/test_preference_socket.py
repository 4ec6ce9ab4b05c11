"""The records that preference objectives read, and what they refuse."""

import math

import pytest
import torch

from prl.objectives.logistic import smooth, soft_logistic
from prl.objectives.preference import METHODS, PreferenceBatch, ScoredResponses
from tests.helpers.records import ragged_mask

MASK = ragged_mask([3, 1, 0])
POLICY = torch.tensor([[-1.0, -2.0, -4.0], [-8.0, -99.0, -99.0], [-99.0, -99.0, -99.0]])
REFERENCE = torch.tensor([[-0.5, -1.0, -2.0], [-4.0, -77.0, -77.0], [-77.0, -77.0, -77.0]])


def scores_from_values(rows: int = 2, width: int = 3) -> ScoredResponses:
    return ScoredResponses(torch.zeros(rows, width), torch.ones(rows, width, dtype=torch.bool))


def test_sums_and_means_count_the_tokens_of_a_response_alone() -> None:
    responses = ScoredResponses(POLICY, MASK, REFERENCE)
    assert responses.lengths.tolist() == [3, 1, 0]
    assert responses.logprob().tolist() == [-7.0, -8.0, 0.0]
    assert responses.mean_logprob().tolist() == pytest.approx([-7 / 3, -8.0, 0.0])
    assert responses.log_ratio().tolist() == [-3.5, -4.0, 0.0]
    weights = torch.tensor([[1.0, 0.5, 0.0], [2.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert responses.log_ratio(weights).tolist() == [-1.0, -8.0, 0.0]


def test_numbers_outside_the_mask_do_not_matter_even_without_a_value() -> None:
    policy = POLICY.masked_fill(~MASK, math.nan).requires_grad_()
    ScoredResponses(policy, MASK, REFERENCE).log_ratio().sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == MASK.float().tolist()


def test_a_ratio_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="no log-probabilities of a reference; .* needs_reference = True"):
        scores_from_values().log_ratio()


def test_ratios_of_a_guide_are_constants_of_each_token_and_zero_outside_the_mask() -> None:
    guide = (REFERENCE / 2).masked_fill(~MASK, math.nan).requires_grad_()
    responses = ScoredResponses(POLICY, MASK, REFERENCE, {"teacher": guide})
    found = responses.guide_ratios("teacher")
    assert found.tolist() == [[0.25, 0.5, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert not found.requires_grad
    with pytest.raises(ValueError, match="no log-probabilities of a guide 'other' and a reference"):
        responses.guide_ratios("other")
    with pytest.raises(ValueError, match="declares them with guides and needs_reference = True"):
        ScoredResponses(POLICY, MASK, None, {"teacher": guide}).guide_ratios("teacher")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.ones(2, 3)), "mask is torch.float32 of 2 dimensions, expected torch.bool of 2"),
        ((torch.zeros(2, 4), MASK[:2]), r"logprobs has shape \(2, 4\), expected \(2, 3\)"),
        ((torch.zeros(3, 3), MASK, torch.zeros(3, 1)), r"ref_logprobs has shape \(3, 1\), expected \(3, 3\)"),
        ((POLICY, MASK, None, {"reward": torch.zeros(1, 3)}), r"guides\['reward'\] has shape \(1, 3\)"),
    ],
)
def test_shapes_of_responses_are_checked(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoredResponses(*arguments)


@pytest.mark.parametrize(
    ("views", "columns", "message"),
    [
        ({"chosen": scores_from_values()}, {}, "the views are .'chosen'.; 'rejected' is missing"),
        (
            {"chosen": scores_from_values(), "rejected": scores_from_values(3)},
            {},
            "view 'rejected' has 3 responses for 2 pairs",
        ),
        (
            {"chosen": scores_from_values(), "rejected": scores_from_values(), "gold": scores_from_values(3)},
            {},
            "view 'gold' has 3 responses, which cannot be dealt to 2 pairs",
        ),
        (
            {"chosen": scores_from_values(), "rejected": scores_from_values()},
            {"margin": torch.zeros(3)},
            r"columns\['margin'\] has shape \(3,\), expected \(2,\)",
        ),
    ],
)
def test_a_batch_is_checked_when_it_is_made(views: dict, columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceBatch(views, torch.ones(2), columns)


def test_a_batch_may_have_several_responses_of_a_pair_in_a_further_view() -> None:
    views = {
        "chosen": scores_from_values(),
        "rejected": scores_from_values(width=1),
        "responses": scores_from_values(6),
    }
    batch = PreferenceBatch(views, torch.ones(2), {"win_rate": torch.zeros(2)})
    assert (len(batch), len(batch.chosen), batch.rejected.mask.shape[1]) == (2, 2, 1)
    with pytest.raises(ValueError, match="expected one number for each pair"):
        PreferenceBatch(views, torch.ones(2, 1))


def test_the_logistic_loss_with_a_soft_label_is_the_mean_of_both_sides() -> None:
    margin = torch.tensor([0.3, -1.2, 0.0], dtype=torch.float64)
    first, second = (-torch.nn.functional.logsigmoid(sign * margin) for sign in (1, -1))
    target = torch.tensor([1.0, 0.25, 0.5])
    torch.testing.assert_close(soft_logistic(margin, target), target * first + (1 - target) * second)
    assert smooth(torch.tensor([1.0, 0.0, 0.5]), 0.1).tolist() == pytest.approx([0.9, 0.1, 0.5])


def test_methods_are_found_and_exported() -> None:
    import prl.objectives.preference as package

    for name, method in METHODS.items():
        assert getattr(package, name) is method
        assert method.__doc__, name
