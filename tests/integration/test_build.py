"""setup.py run for real, on a copy: what each PRL_BUILD builds, records and refuses."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prl.ops.kernels import OLDEST_TORCH

ROOT = Path(__file__).parents[2]
CHOSEN_OUTSIDE = ("CXX", "CXXFLAGS", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "PRL_BUILD", "PRL_KERNELS")
NO_COMPILER = "no C++ compiler was found (CXX, c++, g++, clang++)"

pytest.importorskip("setuptools", minversion="77", reason="setup.py needs setuptools of version 77 or later")
pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="the kernels are built on Linux only")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that an installation reads, without anything built. Read only."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("prl", "lightning_modules", "datamodules"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "built.json", "__pycache__"))
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Set an empty folder as PATH, so that there is no compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


class Build:
    """One run of setup.py, and what it left."""

    def __init__(self, checkout: Path, out: Path, **environment: str) -> None:
        outside = {name: value for name, value in os.environ.items() if name not in (*CHOSEN_OUTSIDE, "PYTHONPATH")}
        places = ["--build-lib", str(out / "lib"), "--build-temp", str(out / "temp")]
        command = [sys.executable, "setup.py", "build_ext", *places]
        done = subprocess.run(command, cwd=checkout, env=outside | environment, capture_output=True, text=True)
        self.code, self.told, self.folder = done.returncode, done.stderr, out / "lib" / "prl" / "ops"

    def record(self) -> dict:
        """Return the record of an installation that succeeded, by kernel."""
        assert self.code == 0, self.told
        return json.loads((self.folder / "built.json").read_text())

    def libraries(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.so"))

    def refusal(self) -> str:
        """Return the message of an installation that was refused: words, no traceback."""
        assert self.code == 1
        assert "Traceback" not in self.told
        assert self.libraries() == []
        return self.told


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def other_torch(folder: Path, version: str, cuda: str | None) -> str:
    """Make a PYTHONPATH on which setup.py finds another torch first; it only reads the version file."""
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(f"__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\n")
    return str(folder)


# ---- choices


def test_none_builds_nothing_and_records_why(checkout, tmp_path) -> None:
    build = Build(checkout, tmp_path, PRL_BUILD="none")
    why = "PRL_BUILD=none when prl was installed"
    assert build.record()["built"] == {}
    assert build.record()["not_built"] == {"cpp": why, "cuda": why}
    assert build.libraries() == []
    assert f"prl: the cpp kernel is not built: {why}" in build.told


def test_an_unknown_choice_names_the_known_ones(checkout, tmp_path) -> None:
    refusal = Build(checkout, tmp_path, PRL_BUILD="wrong").refusal()
    assert refusal == "PRL_BUILD='wrong' is unknown; known: auto, none, cpp, cuda\n"


@pytest.mark.parametrize("choice", [{}, {"PRL_BUILD": "auto"}])
def test_auto_without_a_compiler_succeeds_and_records_why(checkout, tmp_path, tools, choice) -> None:
    build = Build(checkout, tmp_path, PATH=str(tools), **choice)
    assert build.record()["built"] == {}
    assert build.record()["not_built"] == {
        "cpp": NO_COMPILER,
        "cuda": "nvcc was not found in PATH, and CUDA_HOME is not set",
    }
    assert build.libraries() == []
    assert f"prl: the cpp kernel is not built: {NO_COMPILER}" in build.told


@pytest.mark.parametrize("choice", ["cpp", "cuda"])
def test_a_choice_without_a_compiler_is_refused(checkout, tmp_path, tools, choice) -> None:
    refusal = Build(checkout, tmp_path, PATH=str(tools), PRL_BUILD=choice).refusal()
    assert refusal == f"PRL_BUILD={choice}: the cpp kernel cannot be built: {NO_COMPILER}\n"


def test_cuda_without_nvcc_is_refused(checkout, tmp_path, tools) -> None:
    program(tools, "c++", "exit 1")
    environment = {"PATH": str(tools), "CUDA_HOME": str(tmp_path), "PRL_BUILD": "cuda"}
    refusal = Build(checkout, tmp_path, **environment).refusal()
    assert refusal == f"PRL_BUILD=cuda: the cuda kernel cannot be built: nvcc was not found in CUDA_HOME={tmp_path}\n"


# ---- compilers that fail


def test_auto_with_a_compiler_that_fails_succeeds_and_records_it(checkout, tmp_path, tools) -> None:
    program(tools, "c++", "echo 'in file included' >&2; echo 'error: boom' >&2; exit 1")
    build = Build(checkout, tmp_path, PATH=str(tools))
    assert build.record()["built"] == {}
    assert build.record()["not_built"]["cpp"] == "it did not compile when prl was installed: error: boom"
    assert build.libraries() == []
    assert "the cpp kernel does not compile and is left out:\nin file included\nerror: boom" in build.told


def test_a_choice_with_a_compiler_that_fails_is_refused(checkout, tmp_path, tools) -> None:
    program(tools, "mine", "echo 'error: boom' >&2; exit 1")
    refusal = Build(checkout, tmp_path, PATH=str(tools), CXX="mine", PRL_BUILD="cpp").refusal()
    assert "PRL_BUILD=cpp: the cpp kernel does not compile:\nerror: boom\n" in refusal


def test_auto_with_an_nvcc_that_fails_succeeds_and_records_it(checkout, tmp_path, tools) -> None:
    nvcc = program(tools, "nvcc", "exit 1")
    environment = {"PATH": str(tools), "PYTHONPATH": other_torch(tmp_path, "2.13.0", cuda="13.0")}
    why = Build(checkout, tmp_path, **environment).record()["not_built"]["cuda"]
    assert why == f"{nvcc} lists no architecture from sm_70 on: it is broken or too old"


# ---- what torch allows


def test_auto_leaves_cuda_out_where_torch_has_none(checkout, tmp_path, tools) -> None:
    program(tools, "nvcc", "echo compute_80")
    environment = {"PATH": str(tools), "PYTHONPATH": other_torch(tmp_path, "2.13.0", cuda=None)}
    assert "torch is a build without CUDA" in Build(checkout, tmp_path, **environment).record()["not_built"]["cuda"]


def test_auto_leaves_cuda_out_where_nvcc_is_of_another_version(checkout, tmp_path, tools) -> None:
    script = 'case "$*" in --version) echo "release 13.0, V13.0.88";; *) echo compute_80;; esac'
    program(tools, "nvcc", script)
    environment = {"PATH": str(tools), "PYTHONPATH": other_torch(tmp_path, "2.13.0", cuda="12.8")}
    why = Build(checkout, tmp_path, **environment).record()["not_built"]["cuda"]
    assert why == "nvcc is of CUDA 13, torch of CUDA 12.8 (PRL_BUILD=cuda builds it all the same)"


def test_a_torch_without_the_stable_abi_is_too_old(checkout, tmp_path, tools) -> None:
    program(tools, "c++", "exit 1")
    environment = {"PATH": str(tools), "PYTHONPATH": other_torch(tmp_path, "2.9.1", cuda=None)}
    assert Build(checkout, tmp_path / "auto", **environment).record()["not_built"]["cpp"] == (
        "torch 2.9 is older than 2.10"
    )
    refusal = Build(checkout, tmp_path / "cpp", PRL_BUILD="cpp", **environment).refusal()
    assert refusal == "PRL_BUILD=cpp: the cpp kernel cannot be built: torch 2.9 is older than 2.10\n"


def test_nvcc_is_asked_for_the_architectures_of_the_list_or_all_it_knows(checkout, tmp_path, tools) -> None:
    asked = tmp_path / "asked"
    listing = "for n in 61 80 90; do echo compute_$n; done"
    script = f'case "$*" in --list-gpu-arch) {listing};; --version) echo 13;; *) echo "$*" > {asked}; exit 1;; esac'
    program(tools, "nvcc", script)
    environment = {"PATH": str(tools), "PYTHONPATH": other_torch(tmp_path, "2.13.0", cuda="13.0")}
    Build(checkout, tmp_path, **environment).record()
    assert [word for word in asked.read_text().split() if word.startswith("arch=")] == [
        *("arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90")
    ]
    Build(checkout, tmp_path, TORCH_CUDA_ARCH_LIST="7.5 10.0+PTX;", **environment).record()
    assert [word for word in asked.read_text().split() if word.startswith("arch=")] == [
        *("arch=compute_75,code=sm_75", "arch=compute_100,code=sm_100", "arch=compute_100,code=compute_100")
    ]
    why = Build(checkout, tmp_path, TORCH_CUDA_ARCH_LIST="Ampere", **environment).record()["not_built"]["cuda"]
    assert why == "TORCH_CUDA_ARCH_LIST='Ampere' needs numbers, as in '8.0;9.0'"


def test_the_oldest_torch_that_is_built_for_is_the_oldest_that_loads(checkout, tmp_path, tools) -> None:
    asked = tmp_path / "asked"
    program(tools, "c++", f'echo "$*" > {asked}; exit 1')
    Build(checkout, tmp_path, PATH=str(tools)).record()
    major, minor = OLDEST_TORCH
    assert f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000" in asked.read_text().split()


# ---- a real compiler


@pytest.mark.slow
def test_cpp_builds_a_library_that_a_fresh_process_uses(checkout, tmp_path) -> None:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("needs a C++ compiler")
    build = Build(checkout, tmp_path, PRL_BUILD="cpp")
    record = build.record()
    assert record["built"].keys() == {"cpp"}
    assert record["built"]["cpp"].startswith("built with ")
    assert record["not_built"] == {"cuda": "PRL_BUILD=cpp when prl was installed"}
    assert build.libraries() == ["_cpp.so"]

    installed = tmp_path / "installed"
    shutil.copytree(checkout / "prl", installed / "prl")
    shutil.copytree(build.folder, installed / "prl" / "ops", dirs_exist_ok=True)
    code = (
        "import json, torch\nfrom prl import ops\nfrom prl.advantages.gae import gae\n"
        "rows = torch.ones(1, 3), torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, False, True]])\n"
        "numbers = torch.stack(gae(*rows, gamma=0.5, gae_lambda=0.5)).tolist()\n"
        "print(json.dumps([ops.__file__, ops.active_for('cpu'), ops.status()['cpp'].reason, numbers]))"
    )
    environment = os.environ | {"PYTHONPATH": str(installed), "PRL_KERNELS": "cpp"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        str(installed / "prl" / "ops" / "__init__.py"),
        "cpp",
        record["built"]["cpp"],
        [[[1.25, 0, -3]], [[2.25, 0, 1]]],
    ]
