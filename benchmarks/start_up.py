"""Seconds from the command `prl quickstart` to its first optimizer step, by the clock and by the processor.

python benchmarks/start_up.py --rounds 3 --json start_up.json

Each round is a new process in a new folder. The first one may read the libraries from the disk and is not counted. The
processor's seconds are those of the main process; another one writes the world's data meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runs import show


def worker(folder: Path) -> None:
    """Run the quickstart up to its first optimizer step, write when that was, and stop there."""
    from prl.cli.commands import quickstart

    whole = quickstart.fit

    def stop(*_: Any) -> None:
        (folder / "first_step.json").write_text(json.dumps({"at": time.time(), "cpu": time.process_time()}))
        os._exit(0)

    def fit(*args: Any) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook  # which is imported by now

        register_optimizer_step_post_hook(stop)
        whole(*args)

    quickstart.fit = fit
    quickstart.main(["--out", str(folder / "quickstart")])


def measure() -> dict[str, float]:
    """Start one quickstart, and return its seconds to the first step."""
    with tempfile.TemporaryDirectory() as name:
        began = time.time()
        command = [sys.executable, __file__, "--worker", name]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        found = json.loads((Path(name) / "first_step.json").read_text())
    return {"seconds": found["at"] - began, "cpu_seconds": found["cpu"]}


def main() -> None:
    """Measure each round, and print medians as an object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    load = os.getloadavg()
    rounds = [measure() for _ in range(options.rounds + 1)][1:]
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    result = {**medians, "rounds": rounds, "load": [load, os.getloadavg()]}
    show(result, options.json)


if __name__ == "__main__":
    main()
