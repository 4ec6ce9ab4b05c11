import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.rl.minibatch import schedule_minibatches, split_microbatches, split_prompts, split_side_by_side


@given(st.integers(1, 50), st.integers(1, 12))
def test_every_row_is_in_exactly_one_microbatch(num_rows, size) -> None:
    groups = split_microbatches(num_rows, size)
    assert torch.cat(groups).sort().values.tolist() == list(range(num_rows))
    assert all(1 <= len(group) <= size for group in groups)
    assert len(groups) == -(-num_rows // size)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_every_row_once_per_epoch(num_rows, size, num_minibatches, epochs) -> None:
    groups = split_microbatches(num_rows, size)
    num_minibatches = min(num_minibatches, len(groups))
    schedule = list(schedule_minibatches(groups, num_minibatches, epochs))
    assert len(schedule) == num_minibatches * epochs
    for epoch in range(epochs):
        minibatches = schedule[epoch * num_minibatches : (epoch + 1) * num_minibatches]
        rows = torch.cat([group for minibatch in minibatches for group in minibatch])
        assert rows.sort().values.tolist() == list(range(num_rows))
        counts = [len(minibatch) for minibatch in minibatches]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


def test_microbatches_stay_whole_and_are_dealt_anew() -> None:
    groups = split_microbatches(64, 4)
    schedule = list(schedule_minibatches(groups, 4, 2))
    known = {tuple(group.tolist()) for group in groups}
    dealt = [[tuple(group.tolist()) for group in minibatch] for minibatch in schedule]
    assert {group for minibatch in dealt for group in minibatch} == known
    assert dealt[:4] != dealt[4:]


def test_the_seed_decides() -> None:
    def rows(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return [group.tolist() for group in split_microbatches(32, 8)]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
    assert torch.cat([torch.tensor(group) for group in rows(1)]).tolist() != list(range(32))


def test_too_few_microbatches_say_what_to_change() -> None:
    with pytest.raises(
        ValueError, match=r"update.minibatches is 4, but an iteration has only 2 micro-batches per process"
    ):
        next(schedule_minibatches(split_microbatches(8, 4), 4, 1))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 20))
def test_prompts_stay_whole(num_prompts, per_prompt, size) -> None:
    group = torch.arange(num_prompts).repeat_interleave(per_prompt)[torch.randperm(num_prompts * per_prompt)]
    groups = split_prompts(group, max(size, per_prompt))
    assert torch.cat(groups).sort().values.tolist() == list(range(num_prompts * per_prompt))
    for rows in groups:
        assert len(rows) <= max(size, per_prompt)
        assert all(count == per_prompt for count in group[rows].unique(return_counts=True)[1].tolist())
    assert len(groups) == -(-num_prompts // (max(size, per_prompt) // per_prompt))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 20))
def test_responses_to_a_prompt_stand_side_by_side(num_prompts, per_prompt, size) -> None:
    group = torch.arange(num_prompts).repeat_interleave(per_prompt)[torch.randperm(num_prompts * per_prompt)]
    groups = split_side_by_side(group, size)
    assert [len(rows) for rows in groups] == [len(rows) for rows in split_microbatches(len(group), size)]
    order = torch.cat(groups)
    assert order.sort().values.tolist() == list(range(len(group)))
    assert len(group[order].unique_consecutive()) == num_prompts
    if size % per_prompt == 0:
        assert all(len(group[rows].unique()) * per_prompt == len(rows) for rows in groups)


def test_prompts_are_dealt_at_random() -> None:
    torch.manual_seed(0)
    firsts = {int(split_side_by_side(torch.arange(8) // 2, 2)[0][0]) for _ in range(100)}
    assert firsts == {0, 2, 4, 6}
