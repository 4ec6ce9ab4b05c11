"""Run the speed benchmarks in turn, print one table, and write it into docs/results/speed.md.

make bench
make bench TRL_PYTHON=trl-env/bin/python ARGS="--model DIR --pairs PAIRS.jsonl --rounds 5"

About half an hour of one core, an hour with TRL and a model. Rows of TRL are left out unless TRL_PYTHON (or
--trl-python) names the interpreter of an environment with TRL 1.9.2, the last release with a PPOTrainer; DPO and the
judge are compared with the TRL of --trl-latest-python, where that is given. Judges are compared where --model and
--pairs are given. Each script leaves its object in --out; --table-only makes the table of the objects that are there.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from speed_table import markdown, rows_of

from runs import between

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "speed.md"
BEGIN = "<!-- written by benchmarks/speed.py -->"
"""Line of the page behind which the table is."""
PARTS = (
    "start_up", "ppo_small", "ppo_smollm2", "sampling", "shared_update", "score_once", "pairs", "dpo", "judge",
    "growth",
)  # fmt: skip


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """List script and arguments of each part that can be run with these options."""
    model = ["--model", options.model] if options.model else []
    small = "tiny" if options.tiny else "small"
    threads = ["--threads", str(options.threads)]
    theirs = ["--trl-python", options.trl_python or "", *threads]
    latest = ["--trl-python", options.trl_latest_python or options.trl_python or "", *threads]
    several, turns = ["--rounds", str(options.rounds)], ["--iterations", "1" if options.tiny else "3"]
    ours = [] if options.trl_python else ["--contestants", "own"]
    tiny = ["--tiny"] if options.tiny else []
    found = {
        "start_up": ["start_up.py", *several],
        "ppo_small": ["ppo_vs_trl.py", "--size", small, *several, *turns, *ours, *theirs],
        "sampling": ["sampling.py", *model, *several, *threads, *tiny],
        "shared_update": ["shared_update.py", "--samples", "4", "--shares", "0.5", *several, *threads, *tiny],
        "score_once": ["score_once.py", *several, *tiny],
        "pairs": ["floors.py", "--size", small, "--parts", "pairs", "tokens", *threads],
        "growth": ["growth.py", *threads, *tiny, *(["--doublings", "1"] if options.tiny else [])],
    }
    if options.pairs:
        found["pairs"] += ["--pairs", options.pairs]
    if not options.tiny:
        contestants = ["--contestants", *(["trl"] if options.trl_python else []), "own", "adapter"]
        large = ["--size", "smollm2", *model]
        once = ["--rounds", str(max(1, options.rounds // 3))]
        found["ppo_smollm2"] = ["ppo_vs_trl.py", *large, *once, "--iterations", "1", *contestants, *theirs]
        if options.trl_python:
            found["dpo"] = ["preference_vs_trl.py", "--shares", "0.5", *several, *latest]
            if options.model and options.pairs:
                found["judge"] = ["judge_vs_trl.py", *model, "--pairs", options.pairs, *once, *latest]
    return {name: found[name] for name in options.parts if name in found}


def run(name: str, command: list[str], out: Path) -> None:
    """Run a script, which writes its object. Raises SystemExit when it fails."""
    print(f"{name}: {shlex.join(command)}", file=sys.stderr, flush=True)
    script = [sys.executable, str(HERE / command[0]), *command[1:], "--json", str(out / f"{name}.json")]
    done = subprocess.run(script, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {shlex.join(script)}")


def processor() -> str:
    """Name the processor, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def conditions(options: argparse.Namespace, results: dict[str, Any]) -> list[str]:
    """Say on what machine, with which versions and beside how much other work the figures came about."""
    loads = [load[0] for result in results.values() for load in result.get("load", ())]
    busy = f"load average {min(loads):.1f} to {max(loads):.1f}" if loads else "load average unknown"
    names = ("torch", "transformers", "lightning")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    theirs = sorted({v for result in results.values() for v in versions_of_trl(result)})
    trl = f", TRL {' and '.join(theirs)}" if theirs else ""
    given = [each for each in sys.argv[1:] if each != "--table-only"]
    shown = [Path(each).name if os.path.isabs(each) else each for each in given]
    lines = [
        f"    python benchmarks/speed.py {shlex.join(shown)}".rstrip(),
        "",
        f"{processor()}; {options.threads} thread, float32; {busy}; {libraries}{trl}; {time.strftime('%Y-%m-%d')}.",
    ]
    if not theirs:
        lines.append("Rows that need TRL are left out: no environment with TRL was given (`TRL_PYTHON`).")
    return lines


def versions_of_trl(result: dict[str, Any]) -> set[str]:
    """Collect the versions of TRL in the runs of a script."""
    if isinstance(result, dict):
        own = {result["version"]} if isinstance(result.get("version"), str) else set()
        return own.union(*(versions_of_trl(each) for each in result.values()))
    return set().union(*(versions_of_trl(each) for each in result)) if isinstance(result, list) else set()


def main() -> None:
    """Run the parts, print the table, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=os.environ.get("TRL_PYTHON") or None)
    parser.add_argument("--trl-latest-python", default=os.environ.get("TRL_LATEST_PYTHON") or None)
    parser.add_argument("--model", help="folder of SmolLM2-135M-Instruct; random weights of its shape if none")
    parser.add_argument("--pairs", help="preference file; random lengths if none")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="check that everything runs; the figures mean nothing")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    between(page, BEGIN, [])  # a page without marks is told before the work
    options.out.mkdir(parents=True, exist_ok=True)
    options.rounds = 1 if options.tiny else options.rounds
    for name, command in {} if options.table_only else commands(options).items():
        run(name, command, options.out)
    found = {name: options.out / f"{name}.json" for name in options.parts}
    results = {name: json.loads(path.read_text()) for name, path in found.items() if path.is_file()}
    table = markdown(rows_of(results))
    print("\n".join(table))
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(between(page, BEGIN, [*conditions(options, results), "", *table]), encoding="utf-8")


if __name__ == "__main__":
    main()
