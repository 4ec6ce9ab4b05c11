"""Which kernels a process uses: what PRL_KERNELS asks for, and what stands in the way."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from prl.ops import kernels

ROOT = Path(__file__).parents[3]
SLOW = "advantages run in plain torch, which is right but slow"
STATUS = """
import json
from prl import ops
print(json.dumps({name: [kernel.active, kernel.reason] for name, kernel in ops.status().items()}))
print(ops.active_for("cpu"), ops.active_for("cuda"), ops.active_for("meta"))
"""
GAE = """
import torch
from prl.advantages.gae import gae
rows = torch.ones(1, 3), torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, False, True]])
print(torch.stack(gae(*rows, gamma=0.5, gae_lambda=0.5)).tolist())
"""
GAE_BY_HAND = [[[1.25, 0, -3]], [[2.25, 0, 1]]]
"""Last token: 1 - 4 = -3. First: 1 + 0.5 * 4 - 1 = 2, and 0.25 * -3. The token between does not count."""


def fresh(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a new interpreter that imports prl from a folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PRL_KERNELS", "LOCAL_RANK")}
    variables = inherited | {"PYTHONPATH": str(folder)} | environment
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def succeeded(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ---- at import


def test_torch_switches_every_compiled_kernel_off_without_a_warning() -> None:
    done = fresh(STATUS + GAE, PRL_KERNELS="torch")
    status, devices, numbers = succeeded(done)
    assert json.loads(status) == {
        "cpp": [False, "switched off by PRL_KERNELS=torch"],
        "cuda": [False, "switched off by PRL_KERNELS=torch"],
        "torch": [True, "plain torch: runs wherever no compiled kernel is active"],
    }
    assert devices == "torch torch torch"
    assert json.loads(numbers) == GAE_BY_HAND
    assert SLOW not in done.stderr


def test_cpp_is_active_where_it_was_built() -> None:
    record = kernels.FOLDER / "built.json"
    built = json.loads(record.read_text()) if record.is_file() else {"built": {}}
    if "cpp" not in built["built"]:
        pytest.skip("the cpp kernel was not built when prl was installed")
    if built["sources"] != kernels.source_hash(kernels.SOURCES):
        pytest.skip("the cpp kernel was built from other sources: install prl again")
    done = fresh(STATUS + GAE, PRL_KERNELS="cpp")
    status, devices, numbers = succeeded(done)
    assert json.loads(status)["cpp"] == [True, built["built"]["cpp"]]
    assert json.loads(status)["cuda"] == [False, "switched off by PRL_KERNELS=cpp"]
    assert devices == "cpp torch torch"
    assert json.loads(numbers) == GAE_BY_HAND
    assert SLOW not in done.stderr


def test_an_unknown_choice_names_the_four() -> None:
    done = fresh("import prl.ops", PRL_KERNELS="nonsense")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: PRL_KERNELS='nonsense' is unknown; known: auto, cuda, cpp, torch\n")


def test_cuda_on_a_torch_without_it_is_refused() -> None:
    done = fresh("import torch; torch.version.cuda = None; import prl.ops", PRL_KERNELS="cuda")
    assert done.returncode == 1
    words = f"PRL_KERNELS=cuda, but this kernel cannot be used: torch {torch.__version__} is a build without CUDA"
    assert done.stderr.endswith(f"RuntimeError: {words}\n")


def test_without_a_build_the_advantages_are_right_and_one_warning_says_why_they_are_slow(tmp_path) -> None:
    left_out = shutil.ignore_patterns("*.so", "built.json", "__pycache__")
    shutil.copytree(ROOT / "prl", tmp_path / "prl", ignore=left_out)
    done = fresh(STATUS + GAE, tmp_path)
    status, devices, numbers = succeeded(done)
    assert json.loads(status)["cpp"] == [False, "it was not built when prl was installed (docs/kernels.md)"]
    assert devices == "torch torch torch"
    assert json.loads(numbers) == GAE_BY_HAND
    assert done.stderr.count(SLOW) == 1
    assert f"UserWarning: {SLOW} (cpp: it was not built when prl was installed" in done.stderr
    assert "`prl env` tells more" in done.stderr


# ---- what stands in the way: load() again, on a made-up installation


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an installation whose record says that its cpp kernel was built, and whose library is none."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "ops_cpu.cpp").write_text("int kernel();\n")
    (tmp_path / "_cpp.so").write_text("no library\n")
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    monkeypatch.setattr(kernels, "SOURCES", sources)
    monkeypatch.setattr(kernels, "_STATUS", {})  # the process keeps the kernels that it has
    for name in ("PRL_KERNELS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    write_record(tmp_path, sources=kernels.source_hash(sources), built={"cpp": "built with a pencil"})
    return tmp_path


def write_record(folder: Path, **changes: object) -> None:
    record: dict[str, object] = {"sources": None, "built": {}, "not_built": {}} | changes
    (folder / "built.json").write_text(json.dumps(record))


def reason_of_cpp() -> str:
    """Why cpp is not active in auto mode, which says so in its only warning."""
    with pytest.warns(UserWarning, match=SLOW) as caught:
        kernels.load()
    cpp = kernels.status()["cpp"]
    assert not cpp.active
    assert kernels.active_for("cpu") == "torch"
    assert len(caught) == 1
    assert cpp.reason in str(caught[0].message)
    return cpp.reason


def test_a_library_that_does_not_load_is_left_out(installation, monkeypatch) -> None:
    why = reason_of_cpp()
    assert why.startswith("_cpp.so does not load: ")
    assert "file too short" in why or "invalid ELF header" in why  # the loader's words, not only torch's
    monkeypatch.setenv("PRL_KERNELS", "cpp")
    with pytest.raises(RuntimeError, match=r"PRL_KERNELS=cpp, but .* cannot be used: _cpp\.so does not load"):
        kernels.load()


def test_a_library_that_loads_is_active_with_its_record_as_the_reason(installation, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", opened.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.load()
    assert opened == [str(installation / "_cpp.so")]
    assert kernels.status()["cpp"] == kernels.Kernel("cpp", True, "built with a pencil")
    assert kernels.active_for("cpu") == "cpp"


@pytest.mark.parametrize("change", ["edited", "added", "renamed"])
def test_a_library_of_other_sources_is_not_used(installation, monkeypatch, change) -> None:
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail(f"{path} was loaded"))
    source = kernels.SOURCES / "ops_cpu.cpp"
    if change == "edited":
        source.write_text("long kernel();\n")
    elif change == "added":
        (kernels.SOURCES / "more.h").write_text("")
    else:
        source.rename(kernels.SOURCES / "ops_cpu.cc")
    assert "built from other sources than those in prl/csrc" in reason_of_cpp()


def test_an_installation_without_sources_uses_what_was_built(installation, monkeypatch) -> None:
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    shutil.rmtree(kernels.SOURCES)
    kernels.load()
    assert kernels.status()["cpp"].active


def test_what_the_installation_said_is_the_reason(installation) -> None:
    write_record(installation, not_built={"cpp": "no compiler that day"})
    assert reason_of_cpp() == "no compiler that day"


@pytest.mark.parametrize("missing", ["built.json", "_cpp.so"])
def test_a_missing_record_or_library_is_a_missing_build(installation, missing) -> None:
    (installation / missing).unlink()
    assert "it was not built when prl was installed" in reason_of_cpp()


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0"])
def test_a_torch_without_the_stable_abi_is_too_old(installation, monkeypatch, version) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert reason_of_cpp().startswith(f"torch {version} is older than 2.10")


@pytest.mark.parametrize("version", ["2.10.0", "2.11.0a0+git1234567", "3.0.0"])
def test_later_versions_of_torch_are_not(installation, monkeypatch, version) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert "does not load" in reason_of_cpp()  # the next obstacle


def test_only_the_first_process_of_a_machine_warns(installation, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "does not load" in reason_of_cpp()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.load()
    assert not kernels.status()["cpp"].active


def test_a_gpu_without_its_kernel_is_told_too(installation, monkeypatch) -> None:
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    driver = installation / "nvidiactl"
    monkeypatch.setattr(kernels, "DRIVERS", (driver,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.load()  # a torch with CUDA on a machine without a GPU: nothing runs slower than it could
    monkeypatch.setenv("PRL_KERNELS", "cuda")
    with pytest.raises(RuntimeError, match="PRL_KERNELS=cuda, but this kernel cannot be used: it was not built"):
        kernels.load()
    (installation / "_cuda.so").touch()
    write_record(installation, sources=kernels.source_hash(kernels.SOURCES), built={"cpp": "b", "cuda": "b"})
    with pytest.raises(RuntimeError, match="there is no GPU here"):
        kernels.load()
    (installation / "_cuda.so").unlink()
    monkeypatch.delenv("PRL_KERNELS")
    driver.touch()
    with pytest.warns(UserWarning, match=r"cuda: it was not built when prl was installed"):
        kernels.load()
