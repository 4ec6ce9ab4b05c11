"""Seconds of a small model's training step with one and with all threads, alone and beside a busy process.

python benchmarks/threads.py --rounds 3 --json threads.json

A pass forward and backward of the 0.87 M Llama over the rows of a micro-batch. Contestants: one thread; as many as
torch takes by itself; the same where a thread that waits for the others sleeps, as `prl` has it
(OMP_WAIT_POLICY=PASSIVE). Each is a process of its own, and they take turns. The busy process counts in one thread, at
equal priority. Time is by the clock.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runs import show

CONTESTANTS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all threads": {},
    "all threads, asleep while they wait": {"OMP_WAIT_POLICY": "PASSIVE"},
}
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def worker(seconds: float) -> None:
    """Make passes for so many seconds, and print the mean of one."""
    from compiled import build, passes_over
    from ppo_inputs import SIZES

    model = build(SIZES["small"])
    run = passes_over(SIZES["small"], model)
    run(model)
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        run(model)
        count += 1
    print(spent / count)


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def turn(seconds: float) -> dict[str, float]:
    """Run each contestant once."""
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    found = {}
    for name, settings in CONTESTANTS.items():
        command = [sys.executable, __file__, "--worker", "--seconds", str(seconds)]
        found[name] = float(subprocess.run(command, env=plain | settings, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    """Run the rounds, and print medians as an object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contestant in each round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.seconds)
        return
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside a busy process": []}
    load = os.getloadavg()
    for _ in range(options.rounds):
        rounds["alone"].append(turn(options.seconds))
        with busy_process():
            rounds["beside a busy process"].append(turn(options.seconds))
    medians = {
        where: {name: statistics.median(each[name] for each in turns) for name in CONTESTANTS}
        for where, turns in rounds.items()
    }
    result = {"cores": os.cpu_count(), "medians": medians, "rounds": rounds, "load": [load, os.getloadavg()]}
    show(result, options.json)


if __name__ == "__main__":
    main()
