"""The wheel and the sdist: installed into an environment of its own, prl runs from any folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

import prl

ROOT = Path(__file__).parents[2]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "Makefile")
FOLDERS = ("prl", "lightning_modules", "datamodules", "configs", "docs")

pytest.importorskip("setuptools", minversion="77", reason="setup.py needs setuptools of version 77 or later")
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **variables: str) -> str:
    done = attempt(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attempt(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line, env = list(map(str, command)), {**outside, "PRL_BUILD": "none", **variables}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a release is made of, without anything built."""
    folder = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "built.json", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def program(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that sees the other packages of this one, but not this clone."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", home, cwd=source)
    [wheel] = home.glob("*.whl")
    venv.create(home / "env")
    python = home / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "-q", wheel, cwd=home)
    [packages] = (home / "env" / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))  # whose own .pth files are not read
    for name in ("prl", "lightning_modules", "datamodules"):
        assert (packages / name / "py.typed").is_file()
    return home / "env" / "bin" / "prl"


def test_the_installed_program_runs_from_any_folder(program: Path, tmp_path: Path) -> None:
    assert run(program, "--version", cwd=tmp_path) == f"prl {prl.__version__}\n"
    assert "usage: prl quickstart" in run(program, "quickstart", "--help", cwd=tmp_path)
    run(program, "quickstart", "--only", "world", "--out", "here", cwd=tmp_path)
    assert (tmp_path / "here" / "world" / "tokenizer").is_dir()


def test_shipped_configs_are_found_and_classes_of_the_current_folder_where_the_path_says_so(
    program: Path, tmp_path: Path
) -> None:
    """The current folder is not on the path by itself: libraries probe for packages, and would run its files."""
    module = "from lightning_modules.supervised import SupervisedModule\n\n\nclass Mine(SupervisedModule):\n    pass\n"
    (tmp_path / "mine.py").write_text(module)
    args = ["--config", "configs/quickstart/supervised.yaml", "--model.class_path", "mine.Mine", "--print_config"]
    refused = attempt(program, "fit", *args, cwd=tmp_path)
    assert refused.returncode == 2
    assert "it lies in this folder, where Python does not look: PYTHONPATH=. prl" in refused.stderr
    shown = run(program, "fit", *args, cwd=tmp_path, PYTHONPATH=".")
    assert "class_path: mine.Mine" in shown
    assert "run_dir: runs/quickstart/supervised" in shown


def test_the_sdist_has_configs_and_docs(source: Path, tmp_path: Path) -> None:
    run(sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path, cwd=source)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    expected = {
        path.relative_to(ROOT).as_posix() for name in ("configs", "docs") for path in (ROOT / name).rglob("*.*")
    }
    assert names >= expected | {"CHANGELOG.md", "prl/csrc/ops_cpu.cpp", "prl/py.typed"}
