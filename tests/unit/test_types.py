from dataclasses import replace

import pytest
import torch

from prl.types import PromptBatch, Rollout
from tests.helpers.records import make_experience, ragged_mask


def batch(anchors) -> PromptBatch:
    mask = torch.tensor([[False, True], [True, True]])
    turns = [[{"role": "user", "content": "x"}], [{"role": "user", "content": "yz"}]]
    return PromptBatch(torch.tensor([[0, 5], [6, 7]]), mask, turns, anchors)


def test_repeat_keeps_the_rollouts_of_a_prompt_together() -> None:
    repeated = batch([("a",), ("b", "c")]).repeat(2)
    assert repeated.prompt_ids.tolist() == [[0, 5], [0, 5], [6, 7], [6, 7]]
    assert repeated.prompt_mask.tolist() == [[False, True]] * 2 + [[True, True]] * 2
    assert [p[0]["content"] for p in repeated.prompts] == ["x", "x", "yz", "yz"]
    assert repeated.anchors == [("a",), ("a",), ("b", "c"), ("b", "c")]
    assert repeated.group.tolist() == [0, 0, 1, 1]
    assert len(repeated) == 4


def test_prompt_batch_checks_its_parts() -> None:
    with pytest.raises(ValueError, match="2 prompt rows but 2 prompts and 1 anchor lists"):
        batch([("a",)])
    with pytest.raises(ValueError, match="prompt_mask has dtype torch.int64, expected torch.bool"):
        PromptBatch(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.long), [[]], [("a",)])


def rollout() -> Rollout:
    prompts = PromptBatch(
        torch.tensor([[0, 0, 4], [0, 5, 6], [7, 8, 9]]),
        torch.tensor([[False, False, True], [False, True, True], [True, True, True]]),
        [({"role": "user", "content": text},) for text in "pqr"],
        [("a",), (), ("b", "c")],
        [{"n": n} for n in range(3)],
    )
    return Rollout(
        prompts,
        torch.tensor([[11, 1, 0], [12, 0, 0], [13, 14, 15]]),
        torch.tensor([[True, True, False], [True, False, False], [True, True, True]]),
        torch.tensor([True, False, False]),
        ["x", "y", "z"],
        3,
    )


def test_select_cuts_to_the_widest_row() -> None:
    chosen = rollout().select(torch.tensor([1, 0]))
    assert chosen.prompt_ids.tolist() == [[5, 6], [0, 4]]
    assert chosen.prompt_mask.tolist() == [[True, True], [False, True]]
    assert chosen.response_ids.tolist() == [[12, 0], [11, 1]]
    assert chosen.response_mask.tolist() == [[True, False], [True, True]]
    assert chosen.finished.tolist() == [False, True]
    assert chosen.texts == ["y", "x"]
    assert [prompt[0]["content"] for prompt in chosen.batch.prompts] == ["q", "p"]
    assert (chosen.batch.anchors, chosen.batch.extras) == ([(), ("a",)], [{"n": 1}, {"n": 0}])
    assert (chosen.group.tolist(), chosen.max_new_tokens) == ([1, 0], 3)
    assert chosen.input_ids.tolist() == [[5, 6, 12, 0], [0, 4, 11, 1]]
    assert chosen.attention_mask.tolist() == [[True, True, True, False], [False, True, True, True]]


def test_select_takes_a_mask_as_well() -> None:
    chosen = rollout().select(torch.tensor([True, False, True]))
    assert chosen.texts == ["x", "z"]
    assert chosen.response_ids.tolist() == [[11, 1, 0], [13, 14, 15]]
    assert [prompt[0]["content"] for prompt in chosen.batch.prompts] == ["p", "r"]


def test_a_rollout_with_other_anchors_is_otherwise_the_same() -> None:
    other = rollout().anchored([("new",)] * 3)
    assert other.batch.anchors == [("new",)] * 3
    assert other.texts == rollout().texts
    assert torch.equal(other.input_ids, rollout().input_ids)


def test_rollout_checks_its_parts() -> None:
    prompts, mask = rollout().batch, torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="response_mask has shape"):
        Rollout(prompts, torch.zeros(3, 4), mask, mask[:, 0], [""] * 3, 3)
    with pytest.raises(ValueError, match="finished has dtype"):
        Rollout(prompts, torch.zeros(3, 3), mask, mask[:, 0].long(), [""] * 3, 3)
    with pytest.raises(ValueError, match="3 prompts but 3 responses and 2 texts"):
        Rollout(prompts, torch.zeros(3, 3), mask, mask[:, 0], [""] * 2, 3)


def test_experience_selects_and_cuts_every_tensor_alike() -> None:
    mask = ragged_mask([2, 4, 1])
    numbers = torch.arange(12.0).reshape(3, 4)
    names = ("old_logprobs", "ref_logprobs", "values", "advantages", "returns")
    given_tensors = {name: numbers + 100 * i for i, name in enumerate(names)}
    experience = make_experience(mask, rewards=torch.tensor([7.0, 8.0, 9.0]), **given_tensors)
    chosen = experience.select(torch.tensor([2, 0]))
    for i, name in enumerate(names):
        assert getattr(chosen, name).tolist() == [[8.0 + 100 * i, 9.0 + 100 * i], [100.0 * i, 1.0 + 100 * i]]
    assert chosen.rewards.tolist() == [9.0, 7.0]
    assert torch.equal(chosen.rollout.response_mask, ragged_mask([1, 2]))


def test_experience_checks_shapes() -> None:
    with pytest.raises(ValueError, match="returns has shape"):
        make_experience(ragged_mask([2, 4]), returns=torch.zeros(2, 3))


def with_context() -> Rollout:
    """Rows with a beginning that is not the policy's, a gap that is not, and none of its own."""
    context = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    own = torch.tensor([[False, True, False], [True, False, True], [False, False, False]])
    return replace(rollout(), response_mask=own, context_mask=context)


def test_tokens_that_the_policy_did_not_make_are_read() -> None:
    found = with_context()
    assert torch.equal(found.attention_mask, torch.cat([found.prompt_mask, found.context_mask], 1))
    assert torch.equal(found.read_mask, found.context_mask)
    assert torch.equal(rollout().read_mask, rollout().response_mask)


def test_select_is_as_wide_as_what_is_read() -> None:
    chosen = with_context().select(torch.tensor([2, 0]))
    assert chosen.response_ids.tolist() == [[13, 14], [11, 1]]
    assert chosen.response_mask.tolist() == [[False, False], [False, True]]
    assert chosen.context_mask.tolist() == [[True, False], [True, True]]
    assert rollout().select(torch.tensor([0])).context_mask is None


def test_a_response_that_does_not_count_is_not_read_either() -> None:
    left = with_context().without(torch.tensor([False, True, False]))
    assert left.response_mask.tolist() == [[False, True, False], [False] * 3, [False] * 3]
    assert left.context_mask.tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    assert rollout().without(torch.tensor([True] * 3)).context_mask is None


def test_own_tokens_are_among_those_read() -> None:
    with pytest.raises(ValueError, match="response_mask counts tokens that context_mask leaves out"):
        replace(with_context(), context_mask=torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="context_mask has shape"):
        replace(with_context(), context_mask=torch.ones(3, 2, dtype=torch.bool))
