# What every implementation of torch.ops.prl computes: against float64, against each other, and on bad numbers. How they
# are called is in test_kernel_calls.py, `prl.advantages.gae.gae` against its definition in test_gae.py.
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.gae_oracle import Oracle, Problem, random_problem
from tests.helpers.implementations import OPERATORS, Implementation, usable
from tests.parity.test_gae import forward_sums

NAN, INF = float("nan"), float("inf")
FLOATS = (torch.float32, torch.bfloat16)
MASKS = ("mixed", "full", "right padded", "left padded", "holes", "none")
operators = pytest.mark.parametrize("operator", OPERATORS)
layouts = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


def sizes(smallest: int, largest: int) -> st.SearchStrategy[int]:
    """As many small numbers as large ones, and those around the widths of vectors, stages and blocks."""
    around = [0, 1, 7, 8, 9, 31, 33, 255, 256, 257, 1025, 2049]
    by_digits = st.integers(0, largest.bit_length() - 1).flatmap(
        lambda k: st.integers(2**k, min(2 ** (k + 1) - 1, largest))
    )
    return st.sampled_from([size for size in around if smallest <= size <= largest]) | by_digits


decays = st.sampled_from([0.0, 1.0, 0.95, 0.999]) | st.floats(0, 1)


@st.composite
def shapes_of(draw, max_tokens):
    rows = draw(sizes(1, 4096))
    longest = max(1, min(8192, max_tokens // rows))
    # one in three is long: the reference needs a second for the longest
    return rows, draw(st.one_of(*[sizes(0, min(512, longest))] * 2, sizes(0, longest)))


SMALL, TINY = shapes_of(2**18), shapes_of(2**8)
ALL = st.tuples(st.integers(1, 4096), st.integers(0, 8192))


@st.composite
def problems(draw, *, shapes=SMALL, estimators=("k1", "k2", "k3"), packed=(False, True)):
    floats = st.sampled_from(FLOATS)
    return random_problem(
        *draw(shapes),
        seed=draw(st.integers(0, 2**31)),
        mask=draw(st.sampled_from(MASKS)),
        packed=draw(st.sampled_from(packed)),
        per_row=draw(st.booleans()),
        poison=draw(st.sampled_from([0.0, NAN, INF])),
        dtypes=tuple(draw(floats) for _ in range(4)),
        scale=draw(st.sampled_from([1e-2, 1.0, 100.0])),
        gamma=draw(decays),
        gae_lambda=draw(decays),
        critic_lambda=draw(st.none() | decays),
        kl_coef=draw(st.sampled_from([0.0, 0.05, 1.0])),
        kl_estimator=draw(st.sampled_from(estimators)),
    )


def every_kind(mask: str, packed: bool, estimators: tuple[str, ...] = ("k1", "k2", "k3")) -> Iterator[Problem]:
    """All combinations of dtypes, estimators and ways to give lambda: eight rows for vectors and three that are not."""
    kinds = product(FLOATS, FLOATS, estimators, (False, True), (None, 0.9))
    # 0.9 * 0.95 and 0.9 * 0.9 in float32 are not the products of their factors in float32
    for seed, (rewards, values, kl_estimator, per_row, critic_lambda) in enumerate(kinds):
        yield random_problem(
            *(11, 19),
            **{"seed": seed, "mask": mask, "packed": packed, "poison": NAN, "gamma": 0.9},
            dtypes=(rewards, rewards, FLOATS[seed % 2], values),
            **{"kl_estimator": kl_estimator, "per_row": per_row, "critic_lambda": critic_lambda},
        )


def assert_close_to_float64(
    implementation: Implementation, problem: Problem, operator: str, measured: dict[str, float]
) -> None:
    """Each row within what float32 rounding can make of it (`Oracle`); the worst errors go to `measured`."""
    found = implementation(problem, operator)
    oracle = Oracle(problem, operator, scan=implementation.name == "cuda")
    label = f"{operator}, {implementation.name} on {implementation.device}: "
    outputs = {"advantages": oracle.advantages, "returns": oracle.returns}
    for (name, expected), tensor in zip(outputs.items(), found[:2], strict=True):
        errors = oracle.errors(tensor, expected)
        assert (errors <= expected.bound).all()
        # returns are V + A, so where these cancel their errors are large beside what is left
        relative = (errors / np.maximum(expected.largest, 1)).max(initial=0)
        for what, number in {
            f"worst relative error of {name}": relative,
            "worst error as part of its bound": (errors / expected.bound).max(initial=0),
        }.items():
            measured[label + what] = max(measured.get(label + what, 0.0), float(number))
    if operator == "shaped_gae":
        moments, bounds = oracle.moments()
        # beside the errors of the advantages, those of their sum in float64
        assert (np.abs(found[2].cpu().numpy() - moments) <= bounds + 1e-12 * np.abs(moments)).all()


@operators
@settings(max_examples=40)
@given(problem=problems())
def test_float64_agrees(implementation, operator, measured, problem) -> None:
    assert_close_to_float64(implementation, problem, operator, measured)


@operators
@layouts
@pytest.mark.parametrize("mask", ["mixed", "full"])
def test_float64_agrees_on_every_kind_of_problem(implementation, operator, mask, packed, measured) -> None:
    for problem in every_kind(mask, packed):
        assert_close_to_float64(implementation, problem, operator, measured)


# Nothing is forgotten over 8192 tokens: errors have the longest way on which to add up.
@pytest.mark.parametrize(("operator", "packed"), [("gae", False), ("shaped_gae", True)])
def test_float64_agrees_on_long_rows_without_decay(implementation, operator, packed, measured) -> None:
    problem = random_problem(5, 8192, mask="full", packed=packed, gamma=1.0, gae_lambda=1.0)
    assert_close_to_float64(implementation, problem, operator, measured)


@pytest.mark.slow
@operators
@settings(max_examples=10)
@given(problem=problems(shapes=ALL))
def test_float64_agrees_on_problems_of_any_size(implementation, operator, measured, problem) -> None:
    assert_close_to_float64(implementation, problem, operator, measured)


@pytest.mark.slow
@operators
@layouts
@pytest.mark.parametrize("rows", [1, 4096])
def test_float64_agrees_on_the_longest_rows(implementation, operator, packed, rows, measured) -> None:
    problem = random_problem(rows, 8192, packed=packed, mask="holes", gamma=0.999, gae_lambda=0.999, critic_lambda=1.0)
    assert_close_to_float64(implementation, problem, operator, measured)


@given(problem=problems(shapes=TINY, packed=(False,)))
def test_the_oracle_is_the_definition(problem) -> None:
    lambdas = [problem.gae_lambda] * len(problem.mask) if problem.row_lambda is None else problem.row_lambda.tolist()
    expected = forward_sums(problem.rewards, problem.values, problem.mask, problem.gamma, lambdas)
    oracle = Oracle(problem, "gae", round_decays=False)
    assert oracle.errors(expected, oracle.advantages).max() <= 1e-11 * oracle.advantages.largest.max()


@given(problem=problems())
def test_decays_in_float32_change_less_than_the_arithmetic(problem) -> None:
    # dA_t / da = A_{t+1} + a dA_{t+1} / da, at most n M with n = 1 + a + a^2 + ... and M the largest |A|: the two
    # roundings of gamma lambda cost 2 n M, that of gamma at V_{t+1} n S. The bound has 2 n M and 7 n S.
    asked, rounded = (Oracle(problem, "gae", round_decays=choice) for choice in (False, True))
    for exact, other in ((asked.advantages, rounded.advantages), (asked.returns, rounded.returns)):
        assert (np.abs(exact.exact - other.exact).max(0) <= other.bound).all()


def test_a_hand_table(implementation) -> None:
    # gamma lambda = 1/4. KL 2 and 4 nats at half weight: rewards -1 and -2 + 3, on the two tokens that count.
    # delta = 1 - 2 = -1 on the second and -1 + 2 / 2 - 1 = -1 on the first; A = -1 and -1 - 1/4. With the critic's
    # gamma lambda = 1/2 it would be -1 and -1 - 1/2: returns are V plus these. The second row does not count at all.
    tensor, zeros = torch.tensor, [0.0] * 4
    problem = Problem(
        rewards=tensor([[-1.0, 7, 1, 7], [7, 7, 7, 7]]),
        logprobs=tensor([[1.0, 7, 3, 7], [7, 7, 7, 7]]),
        ref_logprobs=tensor([[-1.0, 6, -1, 8], [7, 7, 7, 7]]),
        scores=tensor([3.0, 5.0]),
        values=tensor([[1.0, 9, 2, 9], [9, 9, 9, 9]]),
        mask=tensor([[1, 0, 1, 0], [0, 0, 0, 0]]).bool(),
        **{"kl_coef": 0.5, "gamma": 0.5, "gae_lambda": 0.5, "critic_lambda": 1.0},
    )
    for operator in OPERATORS:
        found = [result.tolist() for result in implementation(problem, operator)]
        assert found[0] == [[-1.25, 0, -1, 0], zeros]
        assert found[1] == [[-0.5, 0, 1, 0], zeros]
    assert found[2] == [2, -2.25, 1.5625 + 1]
    # k2: KL 2 and 8, rewards -1 and -4 + 3; A = -3 and -1 - 3/4
    found = [result.tolist() for result in implementation(replace(problem, kl_estimator="k2"), "shaped_gae")]
    assert found[0] == [[-1.75, 0, -3, 0], zeros]
    assert found[1] == [[-1.5, 0, -1, 0], zeros]


def test_k3_is_right_to_the_last_places(implementation) -> None:
    # without values, scores and discount the advantages are -k3 itself
    d = torch.cat([torch.linspace(-8, 8, 401), torch.logspace(-6, 0, 100)])[None]
    zeros, counts = torch.zeros_like(d), torch.ones_like(d, dtype=torch.bool)
    problem = Problem(zeros, d, zeros, torch.zeros(1), zeros, counts, kl_coef=1.0, kl_estimator="k3", gamma=0.0)
    found = -implementation(problem, "shaped_gae")[0].cpu().double()
    # expm1 is right to one unit in the last place (two roundings) in each library, and the sum is rounded
    growth = (-d.double()).expm1()
    assert ((found - (growth + d)).abs() <= 2.0**-24 * (2 * growth.abs() + (growth + d).abs())).all()


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal bit for bit; moments but for the order of their sum.

    At most 2^13 tokens and 2^12 rows are added one after the other in float64: (2^13 + 2^12) 2^-53 < 1.4e-12 of the
    sum of magnitudes if all roundings pointed one way.
    """
    for result, other in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(result, other)
    for result, other in zip(found[2:], expected[2:], strict=True):
        magnitudes = torch.stack([torch.zeros(()), expected[0].double().abs().sum(), other[2]])
        assert ((result - other).abs() <= 1e-12 * magnitudes).all()


@operators
@settings(max_examples=40)
@given(problem=problems(estimators=("k1", "k2")))
def test_cpp_is_the_reference_bit_for_bit(operator, problem) -> None:
    assert_same(usable("cpp")(problem, operator), usable("torch")(problem, operator))


@operators
@layouts
@pytest.mark.parametrize("mask", ["mixed", "full"])
def test_cpp_is_the_reference_bit_for_bit_on_every_kind_of_problem(operator, mask, packed) -> None:
    for problem in every_kind(mask, packed, ("k1", "k2")):
        assert_same(usable("cpp")(problem, operator), usable("torch")(problem, operator))


# Results of 16 MiB are written past the caches; rows of 1031 floats begin at any address.
@pytest.mark.parametrize("width", [1024, 1031])
def test_cpp_is_the_reference_bit_for_bit_on_results_larger_than_caches(width) -> None:
    problem = random_problem(2061, width, poison=NAN, per_row=True, critic_lambda=1.0)
    assert_same(usable("cpp")(problem, "shaped_gae"), usable("torch")(problem, "shaped_gae"))


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for result, other in zip(found, expected, strict=True):
        assert torch.equal(result, other)


@operators
@layouts
def test_the_number_of_threads_changes_nothing(operator, packed) -> None:
    problem = random_problem(203, 1001, packed=packed, kl_estimator="k3")
    found = []
    for number in (1, 2, 5):
        with threads(number):
            found.append(usable("cpp")(problem, operator))
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


# torch has one expm1 for vectors and another for what is left over, so its k3 depends on the place.
@pytest.mark.parametrize(
    ("name", "estimator"), [("torch", "k1"), ("torch", "k2"), ("cpp", "k1"), ("cpp", "k2"), ("cpp", "k3")]
)
def test_the_place_in_the_batch_changes_nothing(name, estimator) -> None:
    problem = random_problem(19, 45, kl_estimator=estimator, per_row=True, critic_lambda=0.9)
    for operator in OPERATORS:
        together = usable(name)(problem, operator)
        for row in range(19):
            alone = usable(name)(problem.only_row(row), operator)
            assert torch.equal(alone[0][0], together[0][row])
            assert torch.equal(alone[1][0], together[1][row])


shapes = pytest.mark.parametrize(
    "shape", [(9, 13), (300, 70), (2, 5000), (3, 1)], ids=["a vector and a rest", "many rows", "long rows", "one token"]
)


@operators
@layouts
@shapes
def test_two_calls_are_equal_bit_for_bit(implementation, shape, packed, operator) -> None:
    problem = random_problem(*implementation.affordable(*shape), packed=packed, kl_estimator="k3")
    assert_equal(implementation(problem, operator), implementation(problem, operator))


@layouts
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@shapes
def test_what_stands_in_masked_places_does_not_matter(implementation, shape, poison, packed) -> None:
    shape = implementation.affordable(*shape)
    poisoned, clean = (random_problem(*shape, packed=packed, kl_estimator="k3", poison=x) for x in (poison, 0.0))
    for operator in OPERATORS:
        assert_equal(implementation(poisoned, operator), implementation(clean, operator))


@layouts
@pytest.mark.parametrize("poison", [NAN, INF])
@shapes
def test_a_bad_row_stays_alone(implementation, shape, packed, poison) -> None:
    num_rows, width = implementation.affordable(*shape)
    clean = random_problem(num_rows, width, mask="full", packed=packed, per_row=True)
    starts = clean.offsets.tolist() if packed else range(0, num_rows * width + 1, width)
    longest = max(range(num_rows), key=lambda row: starts[row + 1] - starts[row])
    bad = torch.zeros(clean.mask.numel(), dtype=torch.bool)
    bad[starts[longest] : starts[longest + 1]] = True
    bad = bad.view(clean.mask.shape)
    names = ("rewards", "logprobs", "values")
    spoiled = clean.map_tensors(lambda name, x: x.masked_fill(bad, poison) if name in names else x)
    for operator in OPERATORS:
        found, expected = implementation(spoiled, operator), implementation(clean, operator)
        for result, other in zip(found[:2], expected[:2], strict=True):
            assert torch.equal(result.cpu()[~bad], other.cpu()[~bad])
            assert not result.cpu()[bad].isfinite().any()
    assert found[2][0] == expected[2][0]


def test_one_bad_reward_reaches_the_tokens_before_it_only(implementation) -> None:
    clean = random_problem(9, 13, mask="full", gae_lambda=0.95)
    spoiled = clean.map_tensors(lambda name, x: x.clone() if name in ("rewards", "logprobs") else x)
    spoiled.rewards[4, 6] = spoiled.logprobs[4, 6] = NAN
    reached = torch.zeros(9, 13, dtype=torch.bool)
    reached[4, :7] = True
    for operator in OPERATORS:
        found, expected = implementation(spoiled, operator), implementation(clean, operator)
        for result, other in zip(found[:2], expected[:2], strict=True):
            assert torch.equal(result.cpu().isnan(), reached)
            assert torch.equal(result.cpu()[~reached], other.cpu()[~reached])


def test_the_score_of_a_row_without_tokens_goes_nowhere(implementation) -> None:
    problem = replace(random_problem(9, 13, mask="none"), scores=torch.full((9,), NAN))
    for result in implementation(problem, "shaped_gae"):
        assert not result.any()


def test_without_a_weight_log_probabilities_are_not_read(implementation) -> None:
    problem = random_problem(9, 13, kl_coef=0.0, kl_estimator="k3")
    spoiled = problem.map_tensors(lambda name, x: x * NAN if "logprobs" in name else x)
    assert_equal(implementation(spoiled, "shaped_gae"), implementation(problem, "shaped_gae"))


@pytest.mark.parametrize("rows", [3, 11])
def test_any_byte_but_zero_counts(implementation, rows) -> None:
    # a bool tensor may hold other bytes than 0 and 1 (views, memory of other programs), and torch takes them as True
    problem = random_problem(rows, 21)
    odd = replace(problem, mask=(problem.mask.byte() * 255).view(torch.bool))
    for operator in OPERATORS:
        assert_equal(implementation(odd, operator), implementation(problem, operator))


@layouts
def test_moments_are_the_sums_of_the_results(implementation, packed) -> None:
    problem = random_problem(300, 70, packed=packed, poison=NAN)
    advantages, _, moments = (result.cpu() for result in implementation(problem, "shaped_gae"))
    wide = advantages.double()
    # at most 70 tokens and 300 rows are added one after the other
    rounding = 370 * 2**-53
    assert moments[0] == problem.mask.sum()
    assert moments[1].item() == pytest.approx(wide.sum().item(), rel=0, abs=rounding * wide.abs().sum().item())
    assert moments[2].item() == pytest.approx(wide.square().sum().item(), rel=rounding)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("critic_lambda", [None, 0.8])
def test_packed_rows_are_the_padded_ones(implementation, per_row, critic_lambda) -> None:
    padded = random_problem(
        *(12, 33), mask="right padded", per_row=per_row, critic_lambda=critic_lambda, kl_estimator="k2"
    )
    real, starts = padded.mask, torch.cat([torch.zeros(1, dtype=torch.long), padded.mask.sum(1).cumsum(0)])
    packed = replace(padded.map_tensors(lambda _, x: x[real] if x.dim() == 2 else x), offsets=starts)
    # a scan cuts the two layouts into other pieces
    tolerance = {} if implementation.name == "cuda" else {"rtol": 0, "atol": 0}
    for operator in OPERATORS:
        found, expected = implementation(packed, operator), implementation(padded, operator)
        for result, other in zip(found[:2], expected[:2], strict=True):
            torch.testing.assert_close(result.cpu(), other.cpu()[real], **tolerance)


LENGTHS = {
    "no row": [],
    "one empty row": [0],
    "empty rows": [0, 0, 0],
    "one row": [7],
    "one token": [1],
    "empty at the ends": [0, 3, 0, 0, 5, 0],
    "many": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3,
}


@operators
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_rows_may_be_empty(implementation, lengths, operator, measured) -> None:
    tokens = random_problem(1, sum(lengths), mask="holes").map_tensors(lambda _, x: x[0] if x.dim() == 2 else x)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    problem = replace(tokens, scores=torch.randn(len(lengths)), offsets=starts)
    assert [result.shape for result in implementation(problem, operator)[:2]] == [(sum(lengths),)] * 2
    assert_close_to_float64(implementation, problem, operator, measured)


@operators
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (9, 0), (1, 1)])
def test_batches_may_be_empty(implementation, shape, operator, measured) -> None:
    problem = random_problem(*shape, mask="full")
    assert [result.shape for result in implementation(problem, operator)[:2]] == [shape] * 2
    assert_close_to_float64(implementation, problem, operator, measured)
