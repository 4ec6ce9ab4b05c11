import itertools
import random

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from prl.data.batching import LengthGroupedBatchSampler

unhurried = hypothesis.settings(deadline=None)  # a loaded machine is no failure


def sampler(lengths, batch_size, **settings):
    return LengthGroupedBatchSampler(lengths, batch_size, **{"shuffle": True, "seed": 0, "drop_last": False} | settings)


@st.composite
def layouts(draw, even=True):
    """(lengths, settings) over 1 to 4 ranks; `even` makes the last batch divisible too."""
    world_size = draw(st.integers(1, 4))
    batch_size = world_size * draw(st.integers(1, 4))
    num_rows = world_size * draw(st.integers(1, 60)) if even else draw(st.integers(batch_size, 240))
    lengths = draw(st.lists(st.integers(1, 500), min_size=num_rows, max_size=num_rows))
    return lengths, {
        "batch_size": batch_size,
        "world_size": world_size,
        "seed": draw(st.integers(0, 9)),
        "group_by_length": draw(st.booleans()),
        "shuffle": draw(st.booleans()) if even else True,
    }


def all_ranks(lengths, settings, **more):
    return [list(sampler(lengths, rank=rank, **settings | more)) for rank in range(settings["world_size"])]


@unhurried
@given(layouts())
def test_every_row_once_per_epoch_over_all_ranks(layout):
    lengths, settings = layout
    ranks = all_ranks(lengths, settings)
    assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(len(lengths)))
    assert {len(rank) for rank in ranks} == {len(sampler(lengths, **settings))}


@unhurried
@given(layouts())
def test_ranks_divide_the_batches_of_one_process(layout):
    lengths, settings = layout
    alone = list(sampler(lengths, **settings | {"world_size": 1}))
    together = [sorted(sum(slices, [])) for slices in zip(*all_ranks(lengths, settings), strict=True)]
    assert together == [sorted(batch) for batch in alone]


@unhurried
@given(layouts(even=False))
def test_drop_last_gives_full_batches_only(layout):
    lengths, settings = layout
    for rank in all_ranks(lengths, settings, drop_last=True):
        assert len(rank) == len(lengths) // settings["batch_size"]
        assert {len(batch) for batch in rank} == {settings["batch_size"] // settings["world_size"]}


def take(batches, num):
    return list(itertools.islice(batches, num))


@unhurried
@given(layouts(), st.data())
def test_resume_gives_the_tail_of_the_endless_stream(layout, data):
    lengths, settings = layout
    per_epoch = len(sampler(lengths, **settings))
    whole = take(sampler(lengths, **settings, completed_batches=lambda: 0), 3 * per_epoch)
    done = data.draw(st.integers(0, 3 * per_epoch - 1))
    resumed = sampler(lengths, **settings, completed_batches=lambda: done)
    assert take(resumed, len(whole) - done) == whole[done:]
    assert len(resumed) == per_epoch


def test_resume_position_is_read_when_iteration_starts():
    done = 0
    batches = sampler([1] * 12, 4, completed_batches=lambda: done)
    stream = take(batches, 9)
    done = 5
    assert take(batches, 4) == stream[5:]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return take(sampler(range(40), 4, seed=seed, completed_batches=lambda: epoch * 10), 10)

    assert order(0, 1) == order(0, 1)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_without_shuffling_rows_keep_their_order():
    assert list(sampler([5, 1, 4, 2, 3], 2, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_grouping_halves_the_padding_of_skewed_lengths():
    lengths = [int(random.Random(i).lognormvariate(5, 1)) for i in range(1000)]

    def padding(**settings):
        return sum(max(lengths[i] for i in rows) * len(rows) for rows in sampler(lengths, 8, **settings)) - sum(lengths)

    assert padding() < padding(group_by_length=False) / 2


def test_dropped_rows_are_not_the_longest():
    dropped = set()
    for epoch in range(20):
        batches = sampler(range(10), 4, drop_last=True, completed_batches=lambda epoch=epoch: epoch * 2)
        dropped |= set(range(10)) - {row for batch in take(batches, 2) for row in batch}
    assert len(dropped) > 5


def test_ranks_get_similar_lengths():
    for rows in zip(*all_ranks(range(64), {"batch_size": 8, "world_size": 2}), strict=True):
        first, second = (sum(rank) for rank in rows)
        assert abs(first - second) <= 64


def test_works_as_a_batch_sampler_of_a_data_loader():
    loader = DataLoader(range(5), batch_sampler=sampler([1] * 5, 2, shuffle=False))
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(loader) == 3


@pytest.mark.parametrize(
    ("num_rows", "settings", "message"),
    [
        (8, {"batch_size": 6, "world_size": 4}, "batch_size is 6 and cannot be divided over 4 processes"),
        (3, {"batch_size": 4, "drop_last": True}, r"3 rows give no batch of batch_size 4 \(drop_last=True\)"),
        (0, {"batch_size": 4}, "0 rows give no batch"),
        (
            7,
            {"batch_size": 4, "world_size": 2},
            "last batch has 3 rows and cannot be divided evenly over 2 ranks",
        ),
        (9, {"batch_size": 4, "world_size": 2, "shuffle": False}, "last batch has 1 rows, fewer than the 2 ranks"),
        (9, {"batch_size": 4, "rank": 1}, "batch_size is 4, rank 1, world_size 1; expected"),
        (9, {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_impossible_layouts_are_refused(num_rows, settings, message):
    with pytest.raises(ValueError, match=message):
        sampler([1] * num_rows, **settings)


def test_validation_slices_may_be_unequal():
    settings = {"batch_size": 4, "world_size": 2, "shuffle": False}
    assert all_ranks([1] * 7, settings) == [[[0, 2], [4, 6]], [[1, 3], [5]]]


@pytest.mark.parametrize("start", range(5))
def test_only_so_many_batches_come_again_and_again(start):
    lengths = [random.Random(0).randint(1, 50) for _ in range(40)]
    first = list(itertools.islice(sampler(lengths, 4, completed_batches=lambda: 0), 3))
    endless = iter(sampler(lengths, 4, completed_batches=lambda: start, only_batches=3))
    assert list(itertools.islice(endless, 9)) == [first[(start + n) % 3] for n in range(9)]
