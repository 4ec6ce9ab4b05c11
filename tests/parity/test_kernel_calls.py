# How every implementation of torch.ops.prl may be called: layouts in memory, what comes back, under torch.compile, and
# what is refused. What they compute is in test_kernels.py.
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prl import ops
from prl.advantages import gae as advantages
from tests.helpers.gae_oracle import Problem, random_problem
from tests.helpers.implementations import OPERATORS, Implementation, usable

operators = pytest.mark.parametrize("operator", OPERATORS)
layouts = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
Change = Callable[[Tensor], Tensor]
PER_ROW = {"scores", "row_lambda", "offsets"}


def within(x: Tensor, *pads: tuple[int, int]) -> Tensor:
    """View numbers inside a larger tensor: (before, after) other elements around them per dimension."""
    sizes = [before + size + after for (before, after), size in zip(pads, x.shape, strict=True)]
    view = torch.full(sizes, 77, device=x.device).to(x.dtype)
    for dim, ((before, _), size) in enumerate(zip(pads, x.shape, strict=True)):
        view = view.narrow(dim, before, size)
    return view.copy_(x)


PADDED_LAYOUTS: dict[str, Change] = {
    "columns of a wider tensor": lambda x: within(x, (0, 0), (5, 2)),
    "rows of a taller tensor": lambda x: within(x, (1, 1), (1, 0)),
    "every second column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "transposed": lambda x: x.t().contiguous().t(),
    "unaligned": lambda x: within(x.flatten(), (1, 0)).view(x.shape),
    "one row for all": lambda x: x[:1].expand(x.shape),
    "one token for all": lambda x: x[:1, :1].expand(x.shape),
}
FLAT_LAYOUTS: dict[str, Change] = {
    "part of a longer tensor": lambda x: within(x, (3, 2)),
    "every second": lambda x: x.repeat_interleave(2)[::2],
    "one number for all": lambda x: x[:1].expand(x.shape),
}


def assert_layout_does_not_matter(
    implementation: Implementation, problem: Problem, change: Change, names: set[str]
) -> None:
    on_device = problem.map_tensors(lambda _, x: x.to(implementation.device))
    changed = on_device.map_tensors(lambda name, x: change(x) if name in names else x)
    contiguous = changed.map_tensors(lambda _, x: x.clone(memory_format=torch.contiguous_format))
    for operator in OPERATORS:
        found, expected = implementation(changed, operator), implementation(contiguous, operator)
        for result, other in zip(found, expected, strict=True):
            assert torch.equal(result, other)


# Rows for the vectors and rows that are left over; one token per row; several stages of a vector's rows.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(11, 21), (9, 1), (8, 300)])
@pytest.mark.parametrize("layout", PADDED_LAYOUTS)
def test_padded_tensors_may_lie_anywhere(implementation, layout, shape, dtype) -> None:
    problem = random_problem(*implementation.affordable(*shape), dtypes=(dtype,) * 4, mask="holes")
    tokens = problem.tensors().keys() - PER_ROW
    for names in ({"rewards", "logprobs"}, {"ref_logprobs"}, {"values"}, {"mask"}, tokens):
        assert_layout_does_not_matter(implementation, problem, PADDED_LAYOUTS[layout], names)


@pytest.mark.parametrize("layout", FLAT_LAYOUTS)
def test_packed_tensors_may_lie_anywhere(implementation, layout) -> None:
    problem = random_problem(11, 21, packed=True, mask="holes")
    for names in ({"rewards", "logprobs"}, {"values"}, {"mask"}, problem.tensors().keys() - PER_ROW):
        assert_layout_does_not_matter(implementation, problem, FLAT_LAYOUTS[layout], names)


@layouts
@pytest.mark.parametrize("layout", FLAT_LAYOUTS)
def test_tensors_of_rows_may_lie_anywhere(implementation, layout, packed) -> None:
    problem = random_problem(11, 21, packed=packed, per_row=True, mask="holes")
    names = PER_ROW - {"offsets"} if layout == "one number for all" else PER_ROW
    assert_layout_does_not_matter(implementation, problem, FLAT_LAYOUTS[layout], names)


@operators
@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_results_are_new_constants_in_float32(implementation, operator, dtype, packed) -> None:
    problem = random_problem(9, 13, dtypes=(dtype,) * 4, packed=packed, per_row=True)
    problem = problem.map_tensors(lambda _, x: x.to(implementation.device))
    problem = problem.map_tensors(lambda _, x: x.requires_grad_() if x.is_floating_point() else x)
    before = problem.map_tensors(lambda _, x: x.detach().clone())
    found = implementation(problem, operator)
    assert [result.dtype for result in found] == [torch.float32, torch.float32, torch.float64][: len(found)]
    assert [result.shape for result in found] == [problem.mask.shape, problem.mask.shape, (3,)][: len(found)]
    assert all(result.device == problem.mask.device for result in found)
    assert not any(result.requires_grad for result in found)
    places = [tensor.untyped_storage().data_ptr() for tensor in (*found, *problem.tensors().values())]
    assert len(set(places)) == len(places)
    for name, tensor in problem.tensors().items():
        assert torch.equal(tensor, before.tensors()[name]), f"{name} was written to"


@pytest.mark.parametrize("layout", PADDED_LAYOUTS)
def test_results_are_contiguous_whatever_the_inputs_are(implementation, layout) -> None:
    problem = random_problem(9, 13).map_tensors(lambda _, x: x.to(implementation.device))
    problem = problem.map_tensors(lambda _, x: PADDED_LAYOUTS[layout](x) if x.dim() == 2 else x)
    for operator in OPERATORS:
        assert all(result.is_contiguous() for result in implementation(problem, operator))


def test_each_implementation_is_the_one_that_it_says(implementation, monkeypatch) -> None:
    calls = []
    reference = ops.operators.reference.gae
    monkeypatch.setattr(ops.operators.reference, "gae", lambda *args: calls.append(args) or reference(*args))
    for operator in OPERATORS:
        implementation(random_problem(2, 3), operator)
    assert len(calls) == (2 if implementation.name == "torch" else 0)


BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
SAMPLES = {
    "padded": {},
    "one token": {"rows": 1, "width": 1},
    "nothing": {"rows": 0, "width": 0},
    "a lambda per row": {"dtypes": (BFLOAT16,) * 4, "per_row": True, "kl_estimator": "k3"},
    "a critic's lambda": {"dtypes": (BFLOAT16, FLOAT32, BFLOAT16, FLOAT32), "critic_lambda": 1.0},
    "packed": {"packed": True, "per_row": True, "kl_estimator": "k2"},
    "transposed": {"layout": "transposed"},
}


@operators
@pytest.mark.parametrize("sample", SAMPLES)
def test_opcheck(sample, device, operator) -> None:
    settings = {"rows": 9, "width": 11, "layout": None, **SAMPLES[sample]}
    change = PADDED_LAYOUTS.get(settings.pop("layout"), lambda x: x)
    problem = random_problem(**settings).map_tensors(lambda _, x: x.to(device))
    problem = problem.map_tensors(lambda _, x: change(x) if x.dim() == 2 else x)
    # the critic's values may require gradients, and none must be recorded
    problem.values.requires_grad_()
    outcome = torch.library.opcheck(getattr(torch.ops.prl, operator).default, (), problem.arguments(operator))
    assert set(outcome.values()) == {"SUCCESS"}


def call_public(problem: Problem, operator: str) -> tuple[Tensor, ...]:
    """Call the operator through `prl.advantages.gae`, where `gae_lambda` is a number or one per row."""
    arguments = problem.arguments(operator)
    row_lambda = arguments.pop("row_lambda")
    lambdas = {} if row_lambda is None else {"gae_lambda": row_lambda}
    return tuple(getattr(advantages, operator)(**arguments | lambdas))


def call_reference(problem: Problem, operator: str) -> tuple[Tensor, ...]:
    return usable("torch").call(problem, operator)


def both(problem: Problem) -> tuple[Tensor, ...]:
    """Both operators with something around them to compile."""
    doubled = replace(problem, rewards=problem.rewards * 2, logprobs=problem.logprobs * 2)
    return tuple(result + 1 for operator in OPERATORS for result in call_public(doubled, operator))


# fullgraph refuses a graph break, the stance a second compilation: one graph has to serve all sizes.
@layouts
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_they_compile_into_one_graph_for_all_sizes(backend, device, packed) -> None:
    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend=backend)

    def check(rows: int, width: int) -> None:
        problem = random_problem(rows, width, packed=packed, per_row=True, critic_lambda=0.9)
        problem = problem.map_tensors(lambda _, x: x.to(device))
        for result, other in zip(compiled(problem), both(problem), strict=True):
            # one addition around the operators leaves nothing that a compiler may round in another way
            assert torch.equal(result, other)

    check(5, 7)
    with torch.compiler.set_stance("fail_on_recompile"):
        check(9, 12)
        check(20, 3)


def of_dtype(dtype: torch.dtype) -> Change:
    return lambda x: x.to(dtype)


WRONG_SHAPES: dict[str, Change] = {
    "longer": lambda x: torch.cat([x, x]),
    "shorter": lambda x: x[1:],
    "one token": lambda x: x.flatten()[:1],
    "a dimension more": lambda x: x[None],
    "a dimension less": lambda x: x[0],
    "a number": lambda x: x.flatten()[0],
    "elsewhere": lambda x: x.to("meta"),
}
WRONG_FLOATS = {str(dtype): of_dtype(dtype) for dtype in (torch.float64, torch.float16, torch.int64, torch.bool)}
NOT_FLOAT32 = {str(dtype): of_dtype(dtype) for dtype in (torch.float64, torch.bfloat16, torch.int64)}
NOT_BOOL = {str(dtype): of_dtype(dtype) for dtype in (torch.uint8, torch.int64, torch.float32)}
MISTAKES: dict[str, dict[str, Change]] = {
    "rewards": WRONG_SHAPES | WRONG_FLOATS,
    "logprobs": WRONG_SHAPES | WRONG_FLOATS,
    "ref_logprobs": WRONG_SHAPES | WRONG_FLOATS,
    "values": WRONG_SHAPES | WRONG_FLOATS,
    "mask": WRONG_SHAPES | NOT_BOOL,
    "scores": WRONG_SHAPES | NOT_FLOAT32 | {"a column": lambda x: x[:, None]},
    "row_lambda": WRONG_SHAPES | NOT_FLOAT32 | {"a column": lambda x: x[:, None]},
    "offsets": {
        "empty": lambda x: x[:0],
        "two-dimensional": lambda x: x[None],
        "a number": lambda x: x[0],
        "int32": lambda x: x.int(),
        "float32": lambda x: x.float(),
        "elsewhere": lambda x: x.to("meta"),
    },
}
# Rows of 2, 0 and 4 tokens: not from 0, not to 6, or falling.
WRONG_STARTS = [
    *([1, 2, 2, 6], [-1, 2, 2, 6], [-(2**62), 2, 2, 6]),
    *([0, 2, 2, 5], [0, 2, 2, 7], [0, 2, 2, 2**62], [0, 2, 2, 0]),
    *([0, 4, 2, 6], [0, -4, 2, 6], [0, 2**40, 2**62, 6], [6, 4, 2, 0]),
]


def valid(packed: bool) -> Problem:
    """Two rows of three tokens, or three packed ones."""
    problem = random_problem(2, 3, mask="full", per_row=True)
    if not packed:
        return problem
    tokens = problem.map_tensors(lambda _, x: x.flatten())
    return replace(tokens, scores=torch.ones(3), row_lambda=torch.ones(3), offsets=torch.tensor([0, 2, 2, 6]))


mistakes = pytest.mark.parametrize(("name", "mistake"), [(name, what) for name in MISTAKES for what in MISTAKES[name]])


def assert_refused(call: Callable, name: str, mistake: str, device: str, *errors: type[Exception]) -> None:
    """Check that a message names the wrong tensor, from both operators and in both layouts."""
    change = MISTAKES[name][mistake]
    spelled = "gae_lambda" if (call, name) == (call_public, "row_lambda") else name
    for problem in (valid(True), valid(False)) if name != "offsets" else (valid(True),):
        wrong = problem.map_tensors(lambda key, x: change(x.to(device)) if key == name else x.to(device))
        for operator in OPERATORS:
            if name in problem.arguments(operator):
                with pytest.raises(errors, match=rf"\b{spelled}\b"):
                    call(wrong, operator)


@mistakes
@pytest.mark.parametrize("call", [call_public, call_reference])
def test_mistakes_are_value_errors_that_name_the_tensor(call, name, mistake) -> None:
    assert_refused(call, name, mistake, "cpu", ValueError)


# Whoever calls torch.ops.prl past `prl.advantages.gae` must not get memory beyond a tensor read.
@mistakes
def test_compiled_kernels_refuse_mistakes(compiled, name, mistake) -> None:
    assert_refused(compiled.call, name, mistake, compiled.device, ValueError, RuntimeError)


@operators
def test_everything_of_another_rank_is_refused(implementation, operator) -> None:
    for change in (lambda x: x.flatten()[0], lambda x: x.flatten(), lambda x: x[None]):
        problem = valid(False).map_tensors(lambda _, x, change=change: change(x) if x.dim() == 2 else x)
        with pytest.raises((ValueError, RuntimeError), match=r"\bmask\b.*\[B, T\]"):
            implementation(problem, operator)
    for change in (lambda x: x[0], lambda x: x[None]):
        problem = valid(True).map_tensors(lambda name, x, change=change: x if name in PER_ROW else change(x))
        with pytest.raises((ValueError, RuntimeError), match=r"\bmask\b.*\[N\]"):
            implementation(problem, operator)


@pytest.mark.gpu
@operators
def test_cuda_refuses_tensors_of_the_cpu(operator) -> None:
    kernel = usable("cuda")
    for packed in (False, True):
        on_cuda = valid(packed).map_tensors(lambda _, x: x.cuda())
        for name in on_cuda.tensors().keys() & on_cuda.arguments(operator).keys():
            problem = on_cuda.map_tensors(lambda key, x, name=name: x.cpu() if key == name else x)
            with pytest.raises((ValueError, RuntimeError), match=rf"\b{name}\b"):
                kernel.call(problem, operator)


starts = pytest.mark.parametrize("starts", WRONG_STARTS, ids=str)


@starts
@pytest.mark.parametrize("call", [call_public, call_reference])
def test_wrong_row_starts_are_value_errors(starts, call) -> None:
    for operator in OPERATORS:
        with pytest.raises(ValueError, match="offsets must rise from 0 to N = 6"):
            call(replace(valid(True), offsets=torch.tensor(starts)), operator)


@starts
def test_cpp_refuses_wrong_row_starts(starts) -> None:
    for operator in OPERATORS:
        with pytest.raises((ValueError, RuntimeError), match="offsets must rise from 0 to N = 6"):
            usable("cpp")(replace(valid(True), offsets=torch.tensor(starts)), operator)


@pytest.mark.parametrize("call", [call_public, call_reference])
def test_an_unknown_estimator_is_a_value_error(call) -> None:
    with pytest.raises(ValueError, match="unknown KL estimator 'k4'; known: k1, k2, k3"):
        call(replace(valid(False), kl_estimator="k4"), "shaped_gae")


def test_compiled_kernels_refuse_an_unknown_estimator(compiled) -> None:
    with pytest.raises((ValueError, RuntimeError), match="unknown KL estimator 'k4'"):
        compiled(replace(valid(False), kl_estimator="k4"), "shaped_gae")
