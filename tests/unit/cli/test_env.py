"""`prl env`, as text and as JSON, also where the rest of prl does not import."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prl import __version__, ops
from prl.cli.commands import COMMANDS
from prl.cli.commands.env import PACKAGES
from prl.ops.kernels import CHOICES, Kernel

ROOT = Path(__file__).parents[3]
RUN = "import sys; from prl.cli.commands import COMMANDS; COMMANDS['env'](sys.argv[1:])"


def in_process(capsys: pytest.CaptureFixture, *args: str) -> str:
    COMMANDS["env"](list(args))
    return capsys.readouterr().out


def told(text: str, name: str) -> str:
    """Return the text beside a name."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}  ")]
    assert len(lines) == 1, f"{name} has {len(lines)} lines in:\n{text}"
    return lines[0].removeprefix(name).strip()


def fresh(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a new interpreter."""
    variables = {name: value for name, value in os.environ.items() if name != "PRL_KERNELS"} | environment
    return subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, env=variables, capture_output=True, text=True)


@pytest.fixture
def three_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel that runs, one that does not, and plain torch."""
    kernels = [
        Kernel("cpp", True, "built with some compiler"),
        Kernel("cuda", False, "nvcc went home"),
        Kernel("torch", True, "always there"),
    ]
    monkeypatch.setattr("prl.ops.kernels._STATUS", {kernel.name: kernel for kernel in kernels})


def test_json_has_everything(capsys, monkeypatch, three_kernels) -> None:
    monkeypatch.setenv("PRL_KERNELS", "auto")
    report = json.loads(in_process(capsys, "--json"))
    hardware = {"platform", "cpu_cores", "torch_threads", "gpus", "compilers"}
    assert report.keys() == {"prl", "python", "torch", "torch_cuda", "packages", "kernels"} | hardware
    assert (report["prl"], report["torch"]) == (__version__, torch.__version__)
    assert (report["cpu_cores"], report["torch_threads"]) == (os.cpu_count(), torch.get_num_threads())
    assert report["packages"].keys() == set(PACKAGES)
    assert report["packages"]["transformers"] == metadata.version("transformers")
    assert report["compilers"].keys() == {"c++", "nvcc"}
    assert report["kernels"] == {
        "PRL_KERNELS": "auto",
        "error": None,
        "implementations": {
            "cpp": {"active": True, "reason": "built with some compiler"},
            "cuda": {"active": False, "reason": "nvcc went home"},
            "torch": {"active": True, "reason": "always there"},
        },
        "runs_on": {"cpu": "cpp", "cuda": "torch"},
    }


def test_text_names_each_kernel_with_its_reason(capsys, monkeypatch, three_kernels) -> None:
    monkeypatch.delenv("PRL_KERNELS", raising=False)
    text = in_process(capsys)
    assert told(text, "kernel cpp") == "active: built with some compiler"
    assert told(text, "kernel cuda") == "not active: nvcc went home"
    assert told(text, "kernel torch") == "active: always there"
    assert told(text, "PRL_KERNELS") == "not set (auto)"
    assert told(text, "cpu tensors") == "kernel cpp"
    assert told(text, "cuda tensors") == "kernel torch"


def test_the_kernels_told_are_those_of_this_process(capsys) -> None:
    text = in_process(capsys)
    for name, kernel in ops.status().items():
        assert told(text, f"kernel {name}") == f"{'active' if kernel.active else 'not active'}: {kernel.reason}"


def test_text_has_the_versions_and_says_what_is_missing(capsys, monkeypatch) -> None:
    def version(name: str) -> str:
        if name == "deepspeed":
            raise metadata.PackageNotFoundError(name)
        return f"version of {name}"

    monkeypatch.setattr("prl.cli.commands.env.metadata.version", version)
    text = in_process(capsys)
    assert told(text, "prl") == __version__
    assert told(text, "deepspeed") == "not installed"
    for name in set(PACKAGES) - {"deepspeed"}:
        assert told(text, name) == f"version of {name}"


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "built with CUDA 13.0")])
def test_text_tells_which_cuda_torch_was_built_with(capsys, monkeypatch, cuda, words) -> None:
    monkeypatch.setattr("torch.version.cuda", cuda)
    assert told(in_process(capsys), "torch") == f"{torch.__version__}, {words}"


def test_gpus_are_listed(capsys, monkeypatch) -> None:
    gpus = [SimpleNamespace(name=f"GPU {n}", major=9, minor=n, total_memory=80 * 2**30) for n in range(2)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    monkeypatch.setattr("torch.cuda.get_device_properties", gpus.__getitem__)
    lines = [line.split(maxsplit=1) for line in in_process(capsys).splitlines()]
    assert [words for name, words in lines if name == "gpu"] == [
        "GPU 0, capability 9.0, 80.0 GiB",
        "GPU 1, capability 9.1, 80.0 GiB",
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert told(in_process(capsys), "gpu") == "none visible to torch"


def compiler(folder: Path, name: str, *lines: str) -> str:
    """Make a program that prints these lines."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    path.chmod(0o755)
    return str(path)


def test_compilers_are_found_where_an_installation_looks(capsys, monkeypatch, tmp_path) -> None:
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = in_process(capsys)
    assert (told(text, "c++"), told(text, "nvcc")) == ("not found", "not found")
    usual = compiler(tmp_path, "c++", "c++ 12", "all rights reserved")
    cuda = compiler(tmp_path, "nvcc", "nvcc: the compiler", "tools, release 13.0", "Build 1")
    text = in_process(capsys)
    assert (told(text, "c++"), told(text, "nvcc")) == (f"{usual}: c++ 12", f"{cuda}: tools, release 13.0")
    chosen = compiler(tmp_path, "mine", "mine 1")
    other = compiler(tmp_path / "cuda", "bin/nvcc", "tools, release 12.9")
    monkeypatch.setenv("CXX", "mine -m64")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    text = in_process(capsys)
    assert (told(text, "c++"), told(text, "nvcc")) == (f"{chosen}: mine 1", f"{other}: tools, release 12.9")


def test_a_compiler_without_an_answer_is_said(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "silent"))
    assert told(in_process(capsys), "c++") == f"{tmp_path / 'silent'}: does not tell its version"


def test_an_unknown_choice_of_kernels_is_told_without_a_traceback() -> None:
    done = fresh(RUN, PRL_KERNELS="nonsense")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert told(done.stdout, "PRL_KERNELS") == "nonsense"
    assert told(done.stdout, "kernels") == (
        f"prl does not run: PRL_KERNELS='nonsense' is unknown; known: {', '.join(CHOICES)}"
    )
    assert told(done.stdout, "transformers") == metadata.version("transformers")  # the rest of the report is there


def test_a_choice_that_cannot_be_had_is_told_in_json() -> None:
    done = fresh(f"import torch; torch.version.cuda = None; {RUN}", "--json", PRL_KERNELS="cuda")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    kernels = json.loads(done.stdout)["kernels"]
    assert kernels["PRL_KERNELS"] == "cuda"
    assert "is a build without CUDA" in kernels["error"]
    assert kernels["implementations"] == kernels["runs_on"] == {}


def test_nothing_slow_is_imported_and_missing_kernels_are_told_once() -> None:
    # A torch that is too old leaves no kernel, which would make a warning on stderr of what the report says anyway.
    code = f"import torch; torch.__version__ = '2.8.0'; {RUN}; print('loaded', *sys.modules)"
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert "advantages run in plain torch" not in done.stderr
    report, _, loaded = done.stdout.partition("\nloaded ")
    assert not set(loaded.split()) & {"lightning", "transformers", "torchmetrics", "jsonargparse", "datasets", "peft"}
    assert told(report, "kernel cpp").startswith("not active: torch 2.8.0 is older than 2.10")
    assert told(report, "cpu tensors") == "kernel torch"


def test_the_program_answers_where_the_rest_of_prl_does_not_import() -> None:
    code = "import runpy; runpy.run_module('prl', run_name='__main__')"
    done = fresh(code, "env", PRL_KERNELS="nonsense")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "known: auto, cuda, cpp, torch" in told(done.stdout, "kernels")
