"""`prl env`: versions, hardware, compilers and kernels for a bug report, as text or as one JSON object."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from prl import __version__

PACKAGES = ("lightning", "transformers", "torchmetrics", "jsonargparse", "datasets", "peft", "deepspeed")
"""Packages beside torch whose version matters; read from metadata, because imports take seconds."""


def main(args: list[str]) -> None:
    """Print the report. Exits with 1 when PRL_KERNELS names a kernel that is not available."""
    parser = argparse.ArgumentParser("prl env", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(args)
    report = describe()
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    if report["kernels"]["error"] is not None:
        raise SystemExit(1)


def describe() -> dict[str, Any]:
    """Collect the report; None stands for what is missing."""
    import torch

    return {
        "prl": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "gpus": gpus(),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "compilers": compilers(),
        "kernels": kernels(),
    }


def gpus() -> list[dict[str, Any]]:
    """List the GPUs that torch sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [
        {"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "memory_gib": round(gpu.total_memory / 2**30, 1)}
        for gpu in found
    ]


def installed_version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compilers() -> dict[str, str | None]:
    """Find the path and version of each compiler that an installation would use; setup.py looks in the same places."""
    commands = [name.split() for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    cxx = next((command for command in commands if shutil.which(command[0])), None)
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)
    return {"c++": compiler_version(cxx) if cxx else None, "nvcc": compiler_version([nvcc]) if nvcc else None}


def compiler_version(command: list[str]) -> str:
    """Return `PATH: VERSION` of a compiler."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10)
        lines = done.stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    # The first line of nvcc names it without a number.
    line = next((line for line in lines if "release" in line), lines[0] if lines else "does not tell its version")
    return f"{shutil.which(command[0])}: {line}"


def kernels() -> dict[str, Any]:
    """Return the implementation of the advantages that runs, with the reason, or why none can run."""
    report: dict[str, Any] = {"PRL_KERNELS": os.environ.get("PRL_KERNELS")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hide the warning of slow advantages, which points here
            from prl import ops
    except (ValueError, RuntimeError) as error:  # PRL_KERNELS is unknown, or names a kernel that is not available
        return {**report, "error": str(error), "implementations": {}, "runs_on": {}}
    states = {name: {"active": kernel.active, "reason": kernel.reason} for name, kernel in ops.status().items()}
    runs_on = {device: ops.active_for(device) for device in ("cpu", "cuda")}
    return {**report, "error": None, "implementations": states, "runs_on": runs_on}


def as_text(report: dict[str, Any]) -> str:
    """Format the report in two aligned columns."""
    cuda = report["torch_cuda"]
    rows = [(name, report[name]) for name in ("prl", "python", "platform", "cpu_cores", "torch_threads")]
    rows.append(("torch", f"{report['torch']}, built {f'with CUDA {cuda}' if cuda else 'without CUDA'}"))
    rows += [
        ("gpu", f"{gpu['name']}, capability {gpu['capability']}, {gpu['memory_gib']} GiB") for gpu in report["gpus"]
    ] or [("gpu", "none visible to torch")]
    rows += [(name, version or "not installed") for name, version in report["packages"].items()]
    rows += [(name, found or "not found") for name, found in report["compilers"].items()]
    told = report["kernels"]
    rows.append(("PRL_KERNELS", "not set (auto)" if told["PRL_KERNELS"] is None else told["PRL_KERNELS"]))
    rows += [
        (f"kernel {name}", f"{'active' if state['active'] else 'not active'}: {state['reason']}")
        for name, state in told["implementations"].items()
    ]
    rows += [(f"{device} tensors", f"kernel {name}") for device, name in told["runs_on"].items()]
    if told["error"] is not None:
        rows.append(("kernels", f"prl does not run: {told['error']}"))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)
