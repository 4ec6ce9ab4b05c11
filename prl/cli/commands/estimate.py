"""`prl estimate`: memory of a configuration per process, by model and by phase, before anything is allocated."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prl.system.outputs import check_file, json_with, write_text

PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed"}
"""Lightning's short names of `trainer.precision`."""


def main(args: list[str]) -> None:
    """Resolve the configuration as `prl fit` would, and print two tables."""
    parser = argparse.ArgumentParser(
        "prl estimate",
        description=__doc__,
        epilog="All other arguments are those of `prl fit`: --config FILE, and any setting.",
    )
    parser.add_argument("--processes", type=int, help="trainer.devices times trainer.num_nodes when left out")
    parser.add_argument("--json", type=Path, help="where to write the figures, in bytes")
    options, rest = parser.parse_known_args(args)
    if options.json:
        own = json_with("processes", "strategy", "models", "phases", "peak")
        given = [each.partition("=")[2] or each for each in rest]
        configs = [each for each in given if os.path.isfile(each)]  # nothing in a --run_dir is read
        check_file(options.json, "--json", own, configs)
    settings = resolved(rest)
    processes = configured_processes(settings) if options.processes is None else options.processes
    report = describe(settings, processes)
    if options.json:
        write_text(options.json, json.dumps(report, indent=2, default=str) + "\n")
    show(report)


def resolved(args: list[str]) -> dict[str, Any]:
    """Resolve the configuration that `prl fit` would run with these arguments."""
    from prl.cli.app import PrlCLI, run_stage

    class Parsed(PrlCLI):
        """Reads and checks settings without instantiating anything."""

        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            pass

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    given = sys.argv
    sys.argv = given[:1]  # LightningCLI warns of arguments beside those that it is given
    try:
        return run_stage(["fit", *args], cli=Parsed).config["fit"].as_dict()
    finally:
        sys.argv = given


def configured_processes(settings: dict[str, Any]) -> int:
    """Count the processes that the trainer's settings name.

    Raises:
        ValueError: when that depends on the machine.
    """
    devices, nodes = settings["trainer"]["devices"], settings["trainer"]["num_nodes"]
    if not str(devices).isdecimal():
        raise ValueError(f"trainer.devices is {devices!r}, which depends on the machine; give --processes")
    return int(devices) * int(nodes)


def runs_on_cpu(accelerator: Any) -> bool:
    """Return whether a run is on a CPU, as `trainer.accelerator` says; auto is decided by this machine."""
    import torch

    has_other = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not has_other)


def describe(settings: dict[str, Any], processes: int) -> dict[str, Any]:
    """Describe the estimate as a JSON object.

    Raises:
        ValueError: for a strategy, precision or weights that `prl fit` would refuse, and when a batch or groups do not
            divide processes.
    """
    from lightning_modules.estimates import plan_memory
    from lightning_modules.export import build_training_module
    from lightning_modules.strategies import check_precision, check_replicas, shards_of
    from prl.data.batching import check_divides

    if processes < 1:
        raise ValueError(f"--processes is {processes}; expected at least 1")
    shards = shards_of(settings["trainer"]["strategy"])
    check_precision(settings["trainer"]["precision"])
    check_replicas(shards.replicas, processes)
    batch = settings["data"]["init_args"]["batch_size"]
    check_divides("data.init_args.batch_size", batch, processes)
    module = build_training_module(settings)
    rows = batch // processes * getattr(getattr(module, "sampling", None), "per_prompt", 1)
    precision = str(settings["trainer"]["precision"])
    needed = plan_memory(
        module,
        rows,
        precision=PRECISIONS.get(precision, precision),
        float32_copies=shards.master,
        whole=not shards.weights,
        on_cpu=runs_on_cpu(settings["trainer"]["accelerator"]),
    )
    found = needed.on_one_process(processes, shards)
    return {
        **{"processes": processes, "strategy": settings["trainer"]["strategy"], "rows_per_process": rows},
        "models": [{**asdict(each), "total": each.total} for each in found.models],
        "phases": found.phases,
        "peak": max(found.phases.values()),
    }


def show(report: dict[str, Any]) -> None:
    """Print two tables, in GiB, or in MiB where everything is small."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a pipe has no width, and names would be truncated
    unit, size_of = ("GiB", 2**30) if report["peak"] >= 2**30 else ("MiB", 2**20)
    title = f"one of {report['processes']} processes, {unit}"
    models = Table(
        "model", "parameters", "trained", "weights", "gradients", "optimizer", "gathered", "all", title=title
    )
    for each in report["models"]:
        sizes = [f"{each[name] / size_of:.2f}" for name in ("weights", "gradients", "optimizer", "gathered", "total")]
        counts = [f"{each[name] / 1e6:.1f} M" for name in ("num_parameters", "num_trained")]
        models.add_row(each["name"], *counts, *sizes)
    console.print(models)
    phases = Table("phase", "peak", title=f"with everything that lasts, {unit}")
    for name, size in report["phases"].items():
        phases.add_row(name, f"{size / size_of:.2f}")
    console.print(phases)
    console.print(
        "Rows of the longest length allowed. Not counted: Python and its libraries (0.5 to 1 GiB), and what allocators "
        "keep for later."
    )
