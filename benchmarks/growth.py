"""Measure time and memory of an iteration of pairwise PPO by one size at a time, beside `prl estimate`.

python benchmarks/growth.py --json growth.json

A random Llama; from one point on, each size is doubled while the others stay. The slope is that of the line through the
points on logarithmic axes: 1 is proportional. Memory is the most that the process held above what it held before the
models were read, beside the largest phase of `prl estimate`. Each point is two processes, forked from one that has run
a tiny iteration, so that no point counts what is imported. One is timed. The other gives every freed block of 128 KiB
back at once, so that it holds what tensors take; the C library would keep freed blocks for the next phase, which is
faster and holds more (`kept_gib`). About eight minutes of one core.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

from ppo_inputs import Work, prepare
from ppo_iteration import run_iterations

BASE = Work(
    prompts=16, prompt_tokens=64, response_tokens=64, epochs=1, minibatches=1, vocabulary=4096,
    hidden=256, inner=768, layers=3, heads=4, key_value_heads=4,
)  # fmt: skip
TINY = Work(prompts=2, prompt_tokens=12, response_tokens=4, epochs=1, minibatches=1, hidden=16, inner=16, layers=1,
            heads=2, key_value_heads=2)  # fmt: skip
SIZES = {
    "batch": "prompts",
    "response length": "response_tokens",
    "prompt length": "prompt_tokens",
    "samples per prompt": "per_prompt",
    "vocabulary": "vocabulary",
    "width": "hidden",
}
"""Name of each size -> its field of `Work`."""


def grown(base: Work, size: str, doublings: int) -> Work:
    """Double one size so often; the inner width grows with the width."""
    factor, field = 2**doublings, SIZES[size]
    found = replace(base, **{field: factor * getattr(base, field)})
    return replace(found, inner=factor * base.inner) if size == "width" else found


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit the slope of values over sizes on logarithmic axes by least squares."""
    x, y = [log(each) for each in sizes], [log(each) for each in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    deviations = [each - middle_x for each in x]
    return sum(d * (each - middle_y) for d, each in zip(deviations, y, strict=True)) / sum(d * d for d in deviations)


def measure(work: Work, threads: int) -> dict[str, Any]:
    """Run an iteration that is not counted and two that are; return seconds, memory by phase, and the estimate."""
    from lightning_modules.estimates import plan_memory
    from prl.models.memory import Shards

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRL_HOME"] = folder
        given = {**prepare(work, None, Path(folder), 2), "worker": "own", "folder": folder, "threads": threads}
        options = argparse.Namespace(**given)
        module, clock = run_iterations(options)
        estimated = plan_memory(module, work.rows, on_cpu=True).on_one_process(1, Shards()).phases
    found = clock.result()
    measured = {name: clock.peaks[name] - clock.start_gib for name in estimated if name in clock.peaks}
    estimate = max(estimated.values()) / 2**30
    return {
        **{"seconds": found["seconds"], "gib": found["peak_above_start_gib"], "estimate_gib": estimate},
        **{"estimate_over_measured": estimate / found["peak_above_start_gib"], "phases_gib": measured},
        "estimated_phases_gib": {name: each / 2**30 for name, each in estimated.items()},
    }


MMAP_THRESHOLD = -3
"""Of mallopt in glibc: a block of so many bytes is a mapping of its own, which ends when it is freed."""


def _send(work: Work, threads: int, gives_back: bool, pipe: Any) -> None:
    sys.stdout = sys.stderr  # nothing but the result of the parent goes to its output
    if gives_back and sys.platform.startswith("linux"):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**17)
    pipe.send(measure(work, threads))


def measure_point(work: Work, threads: int) -> dict[str, Any]:
    """Measure time in one process, and what tensors take in another."""
    timed, exact = (in_own_process(work, threads, gives_back=each) for each in (False, True))
    return {**exact, "seconds": timed["seconds"], "kept_gib": timed["gib"]}


def in_own_process(work: Work, threads: int, *, gives_back: bool) -> dict[str, Any]:
    """Measure in a forked process, whose memory no other point has touched.

    Args:
        work: of the point.
        threads: of torch.
        gives_back: give freed blocks back to the system at once.

    Raises:
        SystemExit: when the process fails.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, threads, gives_back, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"the process that measured {work} ended without a result") from None
    finally:
        process.join()


def measure_growth(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all points, and fit the slopes."""
    import torch

    torch.set_num_threads(options.threads)  # before a fork, after which no pool of threads is left
    measure(TINY, options.threads)  # imports what runs import as they go, which is no memory of theirs
    base = TINY if options.tiny else BASE
    found: dict[str, Any] = {"base": vars(base), "threads": options.threads, "load": [os.getloadavg()], "growth": {}}
    first = measure_point(base, options.threads)
    for size in options.sizes or SIZES:
        works = [grown(base, size, number) for number in range(options.doublings + 1)]
        points = [first, *(measure_point(work, options.threads) for work in works[1:])]
        at = [getattr(work, SIZES[size]) for work in works]
        found["growth"][size] = {
            "sizes": at,
            "points": points,
            "slopes": {name: slope(at, [point[name] for point in points]) for name in ("seconds", "gib")},
        }
        print(size, at, [(p["seconds"], p["gib"], p["estimate_over_measured"]) for p in points], file=sys.stderr)
        found["load"].append(os.getloadavg())
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), help="what grows; all if none is named")
    parser.add_argument("--doublings", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, whose figures mean nothing")
    parser.add_argument("--json", type=Path, help="also write the result here, after every size")
    print(json.dumps(measure_growth(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
