# The CUDA kernel's own source, compiled for the CPU with a scheduler in place of the hardware: every tiling against the
# torch reference, threads in random order. What this cannot show is the hardware itself; the `gpu` tests do that.
import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.ops import reference

HERE = Path(__file__).parent
CXX = shutil.which("c++") or shutil.which("g++")
TILINGS = [(32, 1), (32, 2), (64, 1), (64, 4), (96, 2), (32, 16), (128, 8)]
"""Threads per block and tokens per thread; (128, 8), (256, 8) and (512, 8) are those of a GPU."""


class Request(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("threads", "items", "shaped", "rewards_bf16", "values_bf16")),
        *((name, ctypes.c_int32) for name in ("critic_follows", "estimator", "reserved")),
        *((name, ctypes.c_void_p) for name in ("rewards", "ref_logprobs", "values", "mask", "scores", "row_lambda")),
        ("offsets", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("width", "num_rows", "num_tokens")),
        *((name, ctypes.c_float) for name in ("gamma", "actor", "critic", "coefficient")),
        *((name, ctypes.c_void_p) for name in ("advantages", "returns", "moments")),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int64) for name in ("num_chunks", "independent")),
    ]


def build(folder: Path, *, source: str | None = None) -> ctypes.CDLL:
    """Build the emulated kernel; `source` replaces the text of gae_cuda.cuh."""
    if CXX is None:
        pytest.skip("no C++ compiler")
    for part in ("tests/native", "prl/csrc"):
        shutil.copytree(HERE.parent.parent / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    if source is not None:
        (folder / "prl/csrc/gae_cuda.cuh").write_text(source)
    library = folder / "gae_on_host.so"
    command = [CXX, "-O2", "-std=c++20", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]
    subprocess.run([*command, str(folder / "tests/native/gae_on_host.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.gae_on_host.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(scope="module")
def kernel(tmp_path_factory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("native"))


def pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def random_problem(rows, width, *, seed=0, density=0.7, dtypes=(torch.float32, torch.float32), offsets=None):
    """Rewards, values, a mask with holes and NaN in its masked places, and scores."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, width) if offsets is None else (int(offsets[-1]),)
    mask = torch.rand(shape, generator=generator) < density
    rewards, values, ref_logprobs = (torch.randn(shape, generator=generator) for _ in range(3))
    nowhere = float("nan")
    return {
        "rewards": rewards.masked_fill(~mask, nowhere).to(dtypes[0]),
        "ref_logprobs": ref_logprobs.to(dtypes[0]),
        "values": values.masked_fill(~mask, nowhere).to(dtypes[1]),
        "mask": mask,
        "scores": torch.randn(rows, generator=generator),
        "offsets": offsets,
    }


def run(kernel, problem, tiling, *, shaped=None, decays=None, seed=0, moments=True):
    """Advantages, returns, moments and the filled-in request of the emulated kernel."""
    decays = decays or reference.Decays(1.0, 0.95, None, None)
    mask, offsets = problem["mask"], problem["offsets"]
    advantages, returns = (torch.full(mask.shape, float("nan")) for _ in range(2))
    sums = torch.full((3,), float("nan"), dtype=torch.float64)
    critic = decays.gae_lambda if decays.critic_lambda is None else decays.critic_lambda
    coefficient, estimator = shaped or (0.0, 1)
    request = Request(
        *(*tiling, shaped is not None, problem["rewards"].dtype == torch.bfloat16),
        *(problem["values"].dtype == torch.bfloat16, decays.critic_lambda is None, estimator, 0),
        *(pointer(problem[name]) for name in ("rewards", "ref_logprobs", "values", "mask")),
        *(pointer(problem["scores"]) if shaped else None, pointer(decays.row_lambda), pointer(offsets)),
        *(0 if offsets is not None else mask.shape[1], len(problem["scores"]), mask.numel()),
        *(decays.gamma, decays.gamma * decays.gae_lambda, decays.gamma * critic, coefficient),
        *(pointer(advantages), pointer(returns), pointer(sums) if moments else None, seed, 0, 0),
    )
    failure = kernel.gae_on_host(ctypes.byref(request))
    assert failure is None, failure.decode()
    return advantages, returns, sums, request


def expected(problem, *, shaped=None, decays=None):
    """Compute the expected numbers by the torch reference."""
    decays = decays or reference.Decays(1.0, 0.95, None, None)
    names = {1: "k1", 2: "k2", 3: "k3"}
    rewards, scores = problem["rewards"], None
    if shaped is not None:
        rewards = reference.shaped_rewards(rewards, problem["ref_logprobs"], shaped[0], names[shaped[1]])
        scores = problem["scores"]
    tensors = (rewards, problem["values"], problem["mask"])
    if problem["offsets"] is None:
        return reference.gae(*tensors, scores, decays)
    places, real = reference.row_places(problem["offsets"])
    padded = [reference.pad(tensor, places) for tensor in tensors]
    advantages, returns, moments = reference.gae(padded[0], padded[1], padded[2] & real, scores, decays)
    return advantages[real], returns[real], moments


def assert_equal_but_for_rounding(found, wanted) -> None:
    # Both sum the same float32 numbers of size 1 with weights that decay, in another order: each of the at most
    # 1 / (1 - 0.95) = 20 terms that matter (all 3000 at lambda 1, where sums reach 300) rounds by 6e-8 of the sum.
    for one, other in zip(found[:2], wanted[:2], strict=True):
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0
        torch.testing.assert_close(one, other, atol=2e-5 * scale, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tiling", [*TILINGS, (256, 8), (512, 8)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 33), (64, 3), (3, 0), (2, 1500)])
def test_padded_rows(kernel, tiling, shape) -> None:
    problem = random_problem(*shape)
    found = run(kernel, problem, tiling, shaped=(0.1, 1))
    assert_equal_but_for_rounding(found, expected(problem, shaped=(0.1, 1)))


def test_rows_that_span_many_blocks(kernel) -> None:
    problem = random_problem(2, 3000)
    for decays in (reference.Decays(1.0, 1.0, 0.9, None), reference.Decays(0.99, 0.95, None, None)):
        *found, request = run(kernel, problem, (32, 2), decays=decays)
        # more than one warp's worth of chunks in a row: the gathering goes round more than once
        assert not request.independent
        assert request.num_chunks > 64
        assert_equal_but_for_rounding(found, expected(problem, decays=decays))


def test_short_rows_need_no_other_block(kernel) -> None:
    for tiling, width in (((64, 4), 100), ((64, 4), 256), ((64, 4), 253), ((128, 8), 512), ((32, 2), 9)):
        request = run(kernel, random_problem(40, width), tiling)[3]
        assert request.independent
        room = tiling[0] * tiling[1] - (tiling[1] - 1 if width % tiling[1] else 0)
        assert request.num_chunks == -(-40 // (room // width))  # as many rows in a block as it has room for
    for width in (254, 257):  # 254 may begin three places into a vector
        assert not run(kernel, random_problem(4, width), (64, 4))[3].independent


tilings = st.sampled_from(TILINGS)
lambdas = st.sampled_from([0.0, 0.5, 0.95, 1.0])


@st.composite
def problems(draw):
    dtypes = draw(st.tuples(*[st.sampled_from([torch.float32, torch.bfloat16])] * 2))
    density = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    seed = draw(st.integers(0, 2**31))
    if draw(st.booleans()):
        lengths = draw(st.lists(st.sampled_from([0, 1, 2, 31, 32, 33, 100, 700]), min_size=1, max_size=8))
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        return random_problem(len(lengths), None, seed=seed, density=density, dtypes=dtypes, offsets=offsets)
    rows, width = draw(st.integers(0, 6)), draw(st.integers(0, 400))
    return random_problem(rows, width, seed=seed, density=density, dtypes=dtypes)


@settings(max_examples=30)
@given(problems(), tilings, lambdas, lambdas | st.none(), st.booleans(), st.integers(1, 3), st.integers(0, 2**31))
def test_any_problem_in_any_tiling(kernel, problem, tiling, gae_lambda, critic, per_row, estimator, seed) -> None:
    rows = len(problem["scores"])
    row_lambda = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) if per_row else None
    decays = reference.Decays(0.99, gae_lambda, critic, row_lambda)
    for shaped in (None, (0.1, estimator)):
        found = run(kernel, problem, tiling, shaped=shaped, decays=decays, seed=seed)
        assert_equal_but_for_rounding(found, expected(problem, shaped=shaped, decays=decays))


def test_results_do_not_depend_on_which_thread_comes_first(kernel) -> None:
    for problem in (random_problem(3, 500), random_problem(50, 10)):
        first = run(kernel, problem, (64, 4), shaped=(0.1, 2), seed=1)
        for seed in range(2, 6):
            again = run(kernel, problem, (64, 4), shaped=(0.1, 2), seed=seed)
            assert all(torch.equal(one, other) for one, other in zip(first[:3], again[:3], strict=True))


@pytest.mark.parametrize("what", ["rewards", "values", "scores", "row_lambda"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_bad_row_stays_alone(kernel, what, number) -> None:
    for width, tiling in ((100, (32, 2)), (7, (32, 1)), (64, (128, 8))):
        problem = random_problem(4, width, density=1.0)
        row_lambda = torch.full((4,), 0.9)
        decays = reference.Decays(1.0, 0.0, None, row_lambda)
        clean = run(kernel, problem, tiling, shaped=(0.1, 1), decays=decays)
        (row_lambda if what == "row_lambda" else problem[what])[2] = number
        found = run(kernel, problem, tiling, shaped=(0.1, 1), decays=decays)
        for row in (0, 1, 3):
            assert torch.equal(found[0][row], clean[0][row])
            assert torch.equal(found[1][row], clean[1][row])
        assert not found[0][2].isfinite().all()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.9])
def test_what_is_not_a_number_reaches_all_that_comes_before_it_in_its_row(kernel, gae_lambda) -> None:
    problem = random_problem(2, 3000, density=1.0)
    problem["rewards"][1, 2990] = float("nan")
    decays = reference.Decays(0.9, gae_lambda, None, None)
    advantages = run(kernel, problem, (64, 4), decays=decays)[0]
    # also where its weight has become zero, as in the reference
    assert torch.equal(advantages.isnan(), expected(problem, decays=decays)[0].isnan())
    assert advantages[1].isnan().sum() == 2991


def test_unaligned_memory(kernel) -> None:
    problem = random_problem(4, 50, density=1.0)
    wanted = expected(problem)
    for name in ("rewards", "values", "mask"):
        padded = torch.zeros(201, dtype=problem[name].dtype)
        padded[1:] = problem[name].flatten()
        problem[name] = padded[1:].view(4, 50)
    assert_equal_but_for_rounding(run(kernel, problem, (64, 4)), wanted)


SOURCE = (HERE.parent.parent / "prl/csrc/gae_cuda.cuh").read_text()
FAULTS = {
    "no barrier before a warp reads the others' maps": ("  __syncthreads();\n  Maps<N> right", "  Maps<N> right"),
    "no barrier before the carry is read": ("  __syncthreads();\n  float c[N];", "  float c[N];"),
    "chunks from the left": ("problem.num_chunks - 1 - atomicAdd(problem", "atomicAdd(problem"),
    "maps in the wrong order": ("compose(warps[w], right)", "compose(right, warps[w])"),
    "a row's end does not end it": ("map = Map{cursor.score, 0};", "map.b += cursor.score;"),
    "a row's end hides only what is finite": ("maps.of[n] = left.closed ? l : Map", "maps.of[n] = Map"),
    "gathering stops a chunk early": ("next <= last; next", "next < last; next"),
    "no fence between a map and its flag": ("  __threadfence();\n  raise_flag", "  raise_flag"),
    "no fence between a flag and its map": ("wait_a_little();\n  __threadfence();", "wait_a_little();"),
    "no fence before a block counts as done": ("    __threadfence();\n    is_last", "    is_last"),
    "no fence before sums are added up": ("return;\n  __threadfence();", "return;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, tmp_path) -> None:
    right, wrong = FAULTS[fault]
    assert SOURCE.count(right) == 1
    broken = build(tmp_path, source=SOURCE.replace(right, wrong))
    with pytest.raises(AssertionError):
        many_runs_are_right(broken)


def many_runs_are_right(kernel) -> None:
    test_a_bad_row_stays_alone(kernel, "row_lambda", float("nan"))
    problem = random_problem(2, 2999)  # a row ends inside a thread's tokens
    wanted = expected(problem, shaped=(0.1, 1))
    for tiling in ((64, 4), (128, 8)):
        for seed in range(5):
            assert_equal_but_for_rounding(run(kernel, problem, tiling, shaped=(0.1, 1), seed=seed), wanted)


def test_many_runs_are_right(kernel) -> None:
    many_runs_are_right(kernel)
