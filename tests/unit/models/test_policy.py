import pytest
import torch

from prl.models.policy import position_ids, response_logits, token_logprobs, verdict_logits, verdict_margins
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.records import ragged_mask
from tests.helpers.tiny import tiny_model


def test_positions_count_real_tokens_only() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False], [False, True, False, True]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 1]]


def test_token_logprobs_are_gathered_log_softmax() -> None:
    logits, ids, mask = torch.randn(3, 5, 11) * 4, torch.randint(0, 11, (3, 5)), ragged_mask([5, 2, 3])
    for temperature in (1.0, 0.5, 2.0):
        expected = (logits.double() / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0] * mask
        found = token_logprobs(logits, ids, mask, temperature)
        torch.testing.assert_close(found.double(), expected, atol=4e-6, rtol=0)  # float32 near 30: spacing 2e-6
        assert (found[~mask] == 0).all()


def test_token_logprobs_of_bfloat16_logits_are_float32() -> None:
    logits, ids, mask = torch.randn(2, 3, 7).bfloat16(), torch.randint(0, 7, (2, 3)), ragged_mask([3, 3])
    found = token_logprobs(logits, ids, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, token_logprobs(logits.float(), ids, mask))


def test_masked_tokens_give_no_gradient() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)
    mask = ragged_mask([1, 3])
    token_logprobs(logits, torch.zeros(2, 3, dtype=torch.long), mask).sum().backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, mask)


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    """Rotary positions see differences only, so that a shift of all positions shows in learned ones alone."""
    return tiny_model(model_type=request.param)


@torch.no_grad()
@pytest.mark.parametrize("padding", [1, 5])
def test_response_logits_with_left_padding_equal_the_unpadded_run(model, padding) -> None:
    ids = torch.randint(3, 90, (2, 9))
    reference = model(ids).logits[:, 4:8]  # before each of the last four tokens
    ones = torch.ones_like(ids, dtype=torch.bool)
    assert_same_numbers(response_logits(model, ids, ones, 4), reference)
    padded = torch.nn.functional.pad(ids, (padding, 0), value=77)  # what stands in the padding does not matter
    mask = torch.nn.functional.pad(ones, (padding, 0), value=False)
    assert_same_numbers(response_logits(model, padded, mask, 4), reference)
    longer = torch.nn.functional.pad(padded, (0, 3), value=55)  # shorter responses are padded on the right
    mask = torch.nn.functional.pad(mask, (0, 3), value=False)
    found = response_logits(model, longer, mask, 7)[:, :4]
    assert_same_numbers(found, reference)
    assert reference.std() > 0.1


@torch.no_grad()
def test_verdict_logits_are_those_after_the_last_token(model) -> None:
    ids = torch.randint(3, 90, (1, 6))
    expected = model(ids).logits[:, -1]
    ones = torch.ones(1, 6, dtype=torch.bool)
    for left, right in ((0, 0), (3, 0), (0, 3), (2, 2)):
        padded = torch.nn.functional.pad(ids, (left, right), value=77)
        mask = torch.nn.functional.pad(ones, (left, right), value=False)
        assert_same_numbers(verdict_logits(model, padded, mask), expected)


@torch.no_grad()
def test_verdict_logits_of_rows_padded_on_different_sides(model) -> None:
    ids = torch.randint(3, 90, (2, 6))
    expected = model(ids).logits[:, -1]
    padded = torch.stack([torch.nn.functional.pad(ids[0], (3, 0)), torch.nn.functional.pad(ids[1], (0, 3), value=77)])
    mask = torch.tensor([[False] * 3 + [True] * 6, [True] * 6 + [False] * 3])
    assert_same_numbers(verdict_logits(model, padded, mask), expected)


def test_margins_are_first_minus_second() -> None:
    logits = torch.tensor([[0.0, 2.0, 0.5], [1.0, 0.25, 1.0]])
    assert verdict_margins(logits, torch.tensor([1, 2])).tolist() == [1.5, -0.75]
