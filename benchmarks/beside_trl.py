"""Run contestants in processes of their own, train by plain Lightning, and compute ratios to TRL.

Workers with TRL have an environment without prl, so nothing here imports it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TRAINER: dict[str, Any] = {
    "devices": 1,
    "limit_val_batches": 0,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
"""Settings of Lightning's trainer: it trains, and does nothing else that takes time."""


def peak_gib() -> float:
    """Most memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which `run_worker` starts a script again."""
    for name in ("--worker", "--rows", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)


def run_worker(script: str, name: str, options: argparse.Namespace, rows: Path, fields: Mapping[str, Any]) -> Any:
    """Train once in a process of its own, and return the JSON object that it prints last.

    Args:
        script: file of the benchmark.
        name: contestant; those whose name begins with `trl` run under `options.trl_python`.
        options: has `trl_python` and `threads`.
        rows: file to train on.
        fields: further options of the script, by name.

    Raises:
        SystemExit: when the process fails.
    """
    theirs = name.startswith("trl")
    interpreter = options.trl_python if theirs else sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    if theirs:
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        environment["PRL_HOME"] = folder  # no run finds what another one cached
        command = [interpreter, script, "--worker", name, "--rows", str(rows), "--folder", folder]
        for field, value in fields.items():
            command += [f"--{field.replace('_', '-')}", str(value)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratios(runs: Mapping[str, list[dict[str, Any]]], figures: Iterable[str]) -> dict[str, Any]:
    """Return the median of each figure over the runs of a contestant, and its ratio to TRL's where TRL takes part."""
    found: dict[str, Any] = {}
    for figure in figures:
        medians = {name: statistics.median(run[figure] for run in some) for name, some in runs.items()}
        found[figure] = medians
        if "trl" in medians:
            found[f"{figure}_ratio_to_trl"] = {name: each / medians["trl"] for name, each in medians.items()}
    return found
