"""Plant one fault after the other in a copy of the tree, run the tests that should notice, and name the survivors.

    python -m tests.mutations                 # all of them, an hour on two cores
    python -m tests.mutations kl update       # those whose name has one of these words
    python -m tests.mutations --list

The tests have to pass before any fault is planted. A fault is killed when a test of the quick suite fails, survives when
all pass, and is stale when its text is no longer in the code. The exit code is 1 for survivors and stale faults that are
not named in `EQUIVALENT`.
"""

import argparse
import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mutations.faults import EQUIVALENT, FAULTS, Fault

ROOT = Path(__file__).parents[2]


def copy_tree(folder: Path) -> Path:
    """Copy what git knows of, and the kernels that were built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    built = [path.relative_to(ROOT) for path in (ROOT / "prl" / "ops").iterdir() if path.suffix in (".so", ".json")]
    for name in [*filter(None, listed.stdout.split("\0")), *map(str, built)]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Warm:
    """A copy of the tree, and the process that runs tests in it, on one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_tree(folder)
        compileall.compile_dir(folder, quiet=2)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],  # no module: `tests` is to be the copy's
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run_tests(self, tests: Iterable[str]) -> tuple[int, str]:
        """Return the exit code of pytest, and its output."""
        request = json.dumps({"folder": str(self.folder), "tests": list(tests)})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(request, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["output"]

    def close(self) -> None:
        """No more tests."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def outcome(warm: Warm, fault: Fault) -> tuple[str, str]:
    """Decide the outcome of a fault, with the line that explains it."""
    path = warm.folder / fault.file
    source = path.read_text(encoding="utf-8")
    if source.count(fault.old) != 1:
        return "stale", f"{fault.file} has its text {source.count(fault.old)} times"
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    try:
        code, output = warm.run_tests(fault.tests)
    finally:
        path.write_text(source, encoding="utf-8")
    if code == 0:
        return "survived", ""
    lines = output.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    # An import that fails is no test that notices.
    told = "killed" if code == 1 and any(line.startswith("FAILED") for line in failed) else "broken"
    return told, (failed or lines or [""])[-1][:160]


class Crew:
    """Copies that work side by side.

    Args:
        folder: where the copies go.
        jobs: how many.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.copies = [Warm(folder / str(number)) for number in range(jobs)]
        self._free: SimpleQueue[Warm] = SimpleQueue()
        for copy in self.copies:
            self._free.put(copy)

    def each(self, work: Callable[[Warm, Any], Any], things: Sequence[Any]) -> list[Any]:
        """Do work on each thing, in a copy that is free, and return the results."""

        def in_turn(thing: Any) -> Any:
            warm = self._free.get()
            try:
                return work(warm, thing)
            finally:
                self._free.put(warm)

        with ThreadPoolExecutor(len(self.copies)) as pool:
            return list(pool.map(in_turn, things))

    def close(self) -> None:
        """No more work."""
        for copy in self.copies:
            copy.close()


def fails_alone(warm: Warm, test: str) -> str:
    """Return the line that explains a test file's failure without any fault; empty when it passes."""
    code, output = warm.run_tests([test])
    told = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))] or [
        f"{test}: exit code {code}"
    ]
    return told[0][:160] if code not in (0, 5) else ""  # 5: all of its tests are slow ones


def plant(warm: Warm, fault: Fault) -> tuple[str, str]:
    """Plant a fault and tell what became of it."""
    start = time.monotonic()
    found = outcome(warm, fault)
    print(f"{found[0]:9s}{fault.name}  {time.monotonic() - start:.0f} s  {found[1]}", flush=True)
    return found


def main() -> None:
    """Run, print a line for each fault, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of names of faults, or of their files; all without any")
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("--jobs", type=int, default=1, help="faults at once")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    options = parser.parse_args()
    chosen = [each for each in FAULTS if any(word in f"{each.name} {each.file}" for word in options.words or [""])]
    if options.list:
        print(*(f"{each.name}: {each.file}" for each in chosen), sep="\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        crew = Crew(Path(temporary), options.jobs)
        tests = list(dict.fromkeys(test for each in chosen for test in each.tests))
        if red := list(filter(None, crew.each(fails_alone, tests))):
            sys.exit("without any fault: " + "\n".join(red))
        outcomes = dict(zip([each.name for each in chosen], crew.each(plant, chosen), strict=True))
        crew.close()
    counts = {kind: [name for name, (told, _) in outcomes.items() if told == kind] for kind in KINDS}
    print(", ".join(f"{len(names)} {kind}" for kind, names in counts.items()), f"of {len(outcomes)}")
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=2) + "\n")
    unexplained = [name for kind in KINDS[1:] for name in counts[kind] if name not in EQUIVALENT]
    sys.exit(f"unexplained: {', '.join(unexplained)}" if unexplained else 0)


KINDS = ("killed", "survived", "stale", "broken")

if __name__ == "__main__":
    main()
