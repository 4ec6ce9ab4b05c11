"""Passes of fixed shapes: the bits of a pair in any place and company, and models that do not keep them."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lightning_modules.reference_passes as passes
from lightning_modules.reference_passes import Pair, Shape, read_pairs, shape_of
from prl.models.logprobs import completion_logprobs
from prl.models.prefix_sharing.tree_attention import PrefixSharing
from prl.rl.sharding import Sharding
from tests.helpers.tiny import tiny_model


def made(length: int, seed: int, views: int = 2) -> Pair:
    """Responses of different lengths behind different prompts, the longest of `length` tokens."""
    drawn = torch.Generator().manual_seed(seed)
    ends = torch.randint(2, length + 1, (views, 1), generator=drawn)
    ends[seed % views] = length
    places = torch.arange(length)
    starts = 1 + (ends - 1) // 3
    ids = torch.randint(5, 40, (views, length), generator=drawn).masked_fill(places >= ends, 0)
    return ids, places < ends, (places >= starts) & (places < ends)


def counted(model: Any) -> tuple[list[tuple[int, ...]], list[int]]:
    """Collect the shapes that the backbone reads, and how many states its head reads at a time."""
    shapes: list[tuple[int, ...]] = []
    heads: list[int] = []
    model.model.register_forward_hook(lambda *args: shapes.append(tuple(args[2].last_hidden_state.shape[:2])))
    model.lm_head.register_forward_hook(lambda *args: heads.append(args[2].shape[:-1].numel()))
    return shapes, heads


@pytest.fixture
def threads() -> Any:
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dtype", "attention"),
    [
        (torch.float32, "sdpa"),
        (torch.bfloat16, "eager"),
        pytest.param(torch.float32, "eager", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, "sdpa", marks=pytest.mark.slow),
    ],
)
def test_no_bit_depends_on_place_and_company(dtype: torch.dtype, attention: str, threads: Callable) -> None:
    model = tiny_model(3, hidden_size=48, intermediate_size=56, attn_implementation=attention).to(dtype)
    pairs = [made(length, seed) for seed, length in enumerate([3, 15, 16, 40, 63, 64, 9, 11, 60, 47, 31])]
    drawn = random.Random(0)
    for number in (1, 2):
        threads(number)
        alone = [read_pairs(model, [pair], Sharding())[0] for pair in pairs]
        for _ in range(2):
            order = drawn.sample(range(len(pairs)), drawn.randint(2, len(pairs)))
            found = read_pairs(model, [pairs[each] for each in order], Sharding())
            assert all(torch.equal(one, alone[each]) for each, one in zip(order, found, strict=True))
    steady = model._prl_steady_shapes
    assert set(steady.values()) == {True}
    assert {each.width for each in steady} == {16, 32, 48, 64}
    plain = [completion_logprobs(model, *pair)[0] for pair in pairs]
    for one, two in zip(alone, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.3)


@pytest.mark.parametrize(
    ("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")], ids=["float32-sdpa", "bfloat16-eager"]
)
def test_trees_keep_their_bits_in_any_company_too(dtype: torch.dtype, attention: str) -> None:
    """Two to four responses behind one prompt, some in two trees, beside pairs that share nothing and are plain."""
    model = tiny_model(3, hidden_size=48, intermediate_size=56, attn_implementation=attention).to(dtype)
    sharing, pairs = PrefixSharing("auto"), []
    for seed, (length, prompt, views) in enumerate([(9, 4, 2), (15, 12, 2), (40, 30, 3), (14, 9, 2), (30, 28, 4)]):
        ids, mask, _ = made(length, seed, views)
        ids[:, :prompt], mask[:, :prompt] = ids[:1, :prompt].clone(), True
        pairs.append((ids, mask, mask & (torch.arange(length) >= prompt)))
    pairs += [made(12, 7), made(90, 8)]
    alone = [read_pairs(model, [pair], Sharding(), sharing)[0] for pair in pairs]
    shapes, heads = counted(model)
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 2, 1, 5], [0, 0, 3, 3, 0, 3, 0, 0, 1]):
        found = read_pairs(model, [pairs[each] for each in order], Sharding(), sharing)
        assert all(torch.equal(one, alone[each]) for each, one in zip(order, found, strict=True))
    steady = model._prl_steady_shapes
    assert set(steady.values()) == {True}
    assert {each.trees for each in steady} == {False, True}
    trees = {(each.pairs * each.rows, each.width) for each in steady if each.trees}
    assert trees <= set(shapes)
    assert 256 in heads
    for one, pair in zip(alone, pairs, strict=True):
        plain = completion_logprobs(model, *pair)[0]
        torch.testing.assert_close(one, plain, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.3)


def test_the_shape_of_a_pass_follows_from_the_pair_alone() -> None:
    cpu = torch.device("cpu")
    widths = {length: shape_of(2, length, cpu, None) for length in (2, 15, 16, 47, 63, 64)}
    assert widths == {
        **{2: Shape(8, 2, 16), 15: Shape(8, 2, 16), 16: Shape(4, 2, 32), 47: Shape(2, 2, 48)},
        **{63: Shape(2, 2, 64), 64: None},  # always wider than the pair; two pairs of 128 tokens would be too many
    }
    assert shape_of(3, 15, cpu, None) == Shape(5, 3, 16)
    assert shape_of(2, 20, cpu, 31) is None  # a model without a place for the padding
    model = tiny_model(3)
    read_pairs(model, [made(9, 0)], Sharding())  # tries the shape
    shapes, heads = counted(model)
    read_pairs(model, [made(8 + n % 8, n) for n in range(17)], Sharding())
    assert shapes == [(16, 16)] * 3
    assert set(heads) == {1, 256}  # one state that the model shows to its head itself


def test_pairs_are_read_alone_where_a_bit_depends_on_the_company() -> None:
    model = tiny_model(3)
    model.model.register_forward_hook(lambda _, __, out: setattr(out, "last_hidden_state", _mixed(out)))
    pairs = [made(9, 0), made(11, 1), made(14, 2)]
    found = read_pairs(model, pairs, Sharding())
    assert model._prl_steady_shapes == {Shape(8, 2, 16): False}
    for pair, values in zip(pairs, found, strict=True):
        assert torch.equal(values, completion_logprobs(model, *pair)[0])
    shapes, _ = counted(model)
    read_pairs(model, pairs, Sharding())
    assert shapes == [(2, 9), (2, 11), (2, 14)]


def _mixed(output: Any) -> torch.Tensor:
    states = output.last_hidden_state
    return states + 1e-3 * states.mean((0, 1))


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_processes_with_cut_weights_make_equally_many_passes(cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other process it is known that it tries one shape more, and makes five passes."""
    sharding = Sharding()
    sharding.cuts_weights = cut
    monkeypatch.setattr(passes, "gathered", lambda shapes: [shapes, {Shape(2, 2, 64)}])
    monkeypatch.setattr(passes, "global_max", lambda number: number.clamp(min=5))
    model = tiny_model(3)
    shapes, _ = counted(model)
    pairs = [made(9, n) for n in range(20)]
    found = read_pairs(model, pairs, sharding)
    assert [each.shape[0] for each in found] == [2] * 20
    assert shapes == [(4, 64)] * 2 * cut + [(16, 16)] * (2 + (5 if cut else 3))
