"""The arrows between the parts of the house, and the size of its rooms."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("prl", "lightning_modules", "datamodules")
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
WIRES_LIGHTNING = ("prl.cli", "prl.__main__")
PURE = {
    "prl.objectives.policy.clipped": set(),
    "prl.objectives.logistic": set(),
    "prl.shapes": set(),
    "prl.verdict": {"prl.shapes"},
    "prl.objectives.preference.base": {"prl.shapes"},
    "prl.objectives.preference.evaluate": {"prl.objectives.preference.base"},
    "prl.objectives.skew_symmetric": set(),
    "prl.objectives.reward.base": {"prl.shapes", "prl.objectives.skew_symmetric"},
    "prl.ops.reference": {"prl.config", "prl.kl", "prl.masking"},
    "prl.kl": {"prl.config"},
    "prl.distributed": set(),
    "prl.masking": {"prl.distributed"},
}
"""Modules of plain maths, each with what it may import beside torch and the standard library."""

ORDER = (
    *("prl", "prl.config", "prl.plugins", "prl.distributed", "prl.masking", "prl.kl", "prl.shapes", "prl.verdict"),
    *("prl.types", "prl.system", "prl.ops", "prl.tools", "prl.data", "prl.models", "prl.checkpoints", "prl.evaluation"),
    *(
        "prl.environments",
        "prl.diffusion",
        "prl.rollouts",
        "prl.advantages",
        "prl.objectives",
        "prl.rewards",
        "prl.judge",
    ),
    *("prl.anchors", "prl.rl"),
    *(
        "prl.run_folder",
        "prl.control",
        "prl.pairs",
        "prl.arena",
        "prl.rounds",
        "prl.renamed",
        "prl.quickstart",
        "datamodules",
    ),
    *("lightning_modules", "prl.cli", "prl.__main__"),
)
"""Each imports only what stands before it, and itself."""

LONGEST_FUNCTION = 60
LONGEST_FILE = 350


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
CORE = [name for name in FILES if name.startswith("prl") and not name.startswith(WIRES_LIGHTNING)]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """Everything that a module imports, at the top or inside functions, as dotted names."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            base = str(node.module)
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in FILES}
    return found


def roots(name: str) -> set[str]:
    return {target.partition(".")[0] for target in imported(name)}


def test_the_scan_sees_the_library() -> None:
    assert {"prl.cli.app", "prl.types", "lightning_modules.base", "datamodules.base"} <= FILES.keys()
    assert "lightning" in roots("prl.cli.app")
    assert "prl.types" in imported("prl.rewards.shapers.base")
    assert "lightning" in roots("lightning_modules.base")


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_lightning_and_none_of_its_users(name) -> None:
    assert not roots(name) & (LIGHTNING | {"lightning_modules", "datamodules"})
    assert not {target for target in imported(name) if target.startswith(WIRES_LIGHTNING)}


def place(name: str) -> int:
    """Where a module's package stands in the order."""
    parts = name.split(".")
    return ORDER.index(".".join(parts[:2]) if parts[0] == "prl" else parts[0])


@pytest.mark.parametrize("name", FILES)
def test_no_arrow_runs_up(name) -> None:
    """Inside functions too: an import that waits is still an arrow."""
    own = {target for target in imported(name) if target.partition(".")[0] in PACKAGES}
    assert {target for target in own if place(target) > place(name)} == set()


def test_no_circle() -> None:
    """Modules in an order in which each imports only earlier ones; imports for type checkers count."""
    graph = {name: {target for target in imported(name) if target in FILES and target != name} for name in FILES}
    # `import a.b` in a package that a.b is part of names the package, whose contents are other files.
    graph = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in graph.items()}
    TopologicalSorter(graph).prepare()


def test_only_the_entry_imports_the_command_line() -> None:
    for name in FILES:
        if not name.startswith(WIRES_LIGHTNING):
            assert not {target for target in imported(name) if target.startswith("prl.cli")}, name


@pytest.mark.parametrize(("one", "other"), [("lightning_modules", "datamodules"), ("datamodules", "lightning_modules")])
def test_modules_and_data_modules_do_not_know_each_other(one, other) -> None:
    for name in FILES:
        if name.partition(".")[0] == one:
            assert other not in roots(name), name


SOCKETS = ("prl.advantages", "prl.objectives", "prl.rewards.shapers", "prl.rollouts.filters")
METHODS = [name for name in FILES if name.startswith(SOCKETS)]
"""Methods, and what they have to offer: tensors in, tensors out."""
KNOWN_TO_METHODS = {
    f"prl.{name}" for name in ("config", "distributed", "plugins", "types", "kl", "masking", "ops", "shapes", "verdict")
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_knows_no_model_no_trainer_and_no_other_socket(name) -> None:
    assert roots(name) <= {"torch", "prl", *sys.stdlib_module_names}
    (own,) = (socket for socket in SOCKETS if name.startswith(socket))
    foreign = {t for t in imported(name) if t in FILES and not t.startswith((own, "prl.ops"))} - {"prl"}
    assert foreign <= KNOWN_TO_METHODS


@pytest.mark.parametrize("name", PURE)
def test_maths_imports_torch_and_the_standard_library_only(name) -> None:
    allowed = {"torch", "prl", *sys.stdlib_module_names}
    assert roots(name) <= allowed
    assert {target for target in imported(name) if target.startswith("prl.")} <= PURE[name]


@pytest.mark.parametrize("name", FILES)
def test_one_file_calls_collectives(name) -> None:
    """Elsewhere a tensor would reach a process group on whatever device it happens to be."""
    if name == "prl.distributed":
        return
    assert not imported(name) & {"torch.distributed", "torchmetrics.utilities.distributed", "torch.distributed.nn"}
    chains = {ast.unparse(node) for node in ast.walk(tree(name)) if isinstance(node, ast.Attribute)}
    modules = {target for target in imported(name) if target.startswith("torch.distributed.")}
    used = {chain for chain in chains if chain.startswith("torch.distributed.")}
    assert not {chain for chain in used if not any(f"{module}.".startswith(f"{chain}.") for module in modules)}


def test_settings_need_no_torch() -> None:
    assert roots("prl.config") <= set(sys.stdlib_module_names)


def loaded_after(statement: str) -> set[str]:
    """Names of the packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_prl_is_light() -> None:
    loaded = loaded_after("import prl")
    assert "prl" in loaded
    assert not loaded & {"torch", "numpy", "transformers", *LIGHTNING}


def test_the_whole_core_loads_without_lightning() -> None:
    loaded = loaded_after("\n".join(f"import {name}" for name in CORE))
    assert {"torch", "transformers"} <= loaded
    assert not loaded & (LIGHTNING | {"lightning_modules", "datamodules", "deepspeed"})


def test_functions_fit_on_a_screen() -> None:
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == {}


def test_files_hold_one_concept() -> None:
    counts = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: count for name, count in counts.items() if count > LONGEST_FILE} == {}


def test_every_package_is_shipped() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == {name for name, path in FILES.items() if path.name == "__init__.py"}
