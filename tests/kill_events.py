"""Kill short runs at each of their file events, go on with each, and compare its end with that of an uninterrupted run.

    python -m tests.kill_events                       # all four runs, every event
    python -m tests.kill_events ppo --every 10        # one of them, every tenth event

Every run is a fork of this process, which has imported what a run imports and started no thread. Exits with 1 when a
run does not end to the bit where it should.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prl.checkpoints.files import CheckpointError, latest_valid
from prl.checkpoints.ledger import LEDGER, compare, read_ledger
from prl.cli.entry import main as prl
from tests.integration.runs import CONFIGS, Home, build_home

SHORT = (
    *("--checkpoint.every_n_batches", "1", "--checkpoint.keep", "1"),
    *("--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1", "--data.init_args.cache", "false"),
)
LENGTH = {"pairwise_ppo": "--model.init_args.iterations", "generative_reward": "--trainer.max_steps"}
IN_SHARDS = (
    *("--config", str(CONFIGS / "strategies" / "fsdp2.yaml"), "--checkpoint.sharded", "true"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"),
)
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ppo": ("pairwise_ppo", ()),
    "judge": ("generative_reward", ()),
    "ppo_sharded": ("pairwise_ppo", IN_SHARDS),
    "judge_sharded": ("generative_reward", IN_SHARDS),
}
EVENTS = {"open", "os.rename", "os.remove", "os.symlink", "os.link", "os.rmdir", "os.mkdir", "os.truncate"}
"""Audit events with a path. Those between two writes that Python does not see are the same to a killed process."""

CURVES = "events.out.tfevents"


def watch(folder: Path, kill_at: int | None, events: Path, number: int = signal.SIGKILL) -> None:
    """Note this process's file events in a folder, and send it a signal before the one of this number."""
    pid, seen, busy, last = os.getpid(), 0, False, ""
    noted = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen, busy, last
        if event not in EVENTS or busy or os.getpid() != pid or isinstance(args[0], int):
            return
        busy = True
        path = os.path.abspath(os.fsdecode(args[0]))
        repeated = CURVES in path and CURVES in last  # each point of a curve opens the file again
        if path.startswith(f"{folder}/") and not repeated:
            seen += 1
            last = path
            mode = f" {args[1]}" if event == "open" and args[1] else ""
            os.write(noted, f"{event} {os.path.relpath(path, folder)}{mode}\n".encode())
            if seen == kill_at:
                os.kill(pid, number)
        busy = False

    sys.addaudithook(note)


def in_a_fork(work: Callable[[], None], output: Path) -> int:
    """Do this work in a process; return its exit code as a shell has it, negative for a signal."""
    child = os.fork()
    if not child:
        code = 1
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def import_what_a_run_imports(arguments: list[str], scratch: Path) -> None:
    """List the modules that a run in a fork loads, and load them here, so that no other fork has to."""
    names = scratch / "modules"

    def work() -> None:
        prl(arguments)
        names.write_text("\n".join(sys.modules))

    assert in_a_fork(work, scratch / "output") == 0, (scratch / "output").read_text()
    for name in names.read_text().split():
        with contextlib.suppress(BaseException):
            importlib.import_module(name)


def end_of(run: Path) -> tuple[str, dict[int, Any]]:
    """Hash of the trained weights, and what each batch read and gave."""
    weights = (run / "model" / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), read_ledger(run / LEDGER)[0]


def is_the_same(found: tuple[str, dict[int, Any]], expected: tuple[str, dict[int, Any]]) -> bool:
    """To the last bit."""
    (weights, lines), (right_weights, right_lines) = found, expected
    return weights == right_weights and compare([*right_lines.values()], [*lines.values()], tolerance=0) is None


class KilledRuns:
    """One run, killed at its events.

    Args:
        arguments: of `prl`, for a run in this folder.
        scratch: a folder for the runs.
    """

    def __init__(self, arguments: Callable[[Path], list[str]], scratch: Path) -> None:
        self.arguments, self.scratch = arguments, scratch
        self.run, self.output = scratch / "run", scratch / "output"
        scratch.mkdir()
        import_what_a_run_imports(arguments(scratch / "first"), scratch)
        assert self.start(None) == 0, self.output.read_text()
        self.expected = self.end()
        self.num_events = len(self.events())

    def events(self) -> list[str]:
        """Those of the last start."""
        return (self.scratch / "events").read_text().splitlines()

    def start(self, kill_at: int | None, number: int = signal.SIGKILL) -> int:
        """Start anew, with a signal before an event."""

        def work() -> None:
            watch(self.run, kill_at, self.scratch / "events", number)
            prl(self.arguments(self.run))

        shutil.rmtree(self.run, ignore_errors=True)
        return in_a_fork(work, self.output)

    def end(self) -> Any:
        """Read what must not depend on a kill."""
        return end_of(self.run)

    def is_right(self) -> bool:
        """Whether the run ended where it should."""
        return is_the_same(self.end(), self.expected)

    def again(self) -> list[str]:
        """Return the command that goes on."""
        return ["resume", str(self.run)] if (self.run / "config.yaml").is_file() else self.arguments(self.run)

    def way(self) -> str:
        """How the command will go on."""
        try:
            latest_valid(self.run / "checkpoints")
        except CheckpointError:
            return "restarted"
        return "resumed"

    def left_behind(self) -> list[str]:
        """Names of what should not be there in the end."""
        wrong = [path.name for path in (*self.run.rglob("*.partial"), *self.run.glob("checkpoints/*.link"))]
        newest = latest_valid(self.run / "checkpoints")
        return wrong + ["last.ckpt"] * ((self.run / "checkpoints" / "last.ckpt").resolve() != newest.resolve())

    def killed_at(self, number: int) -> tuple[str, str]:
        """How a run went on that was killed before this event, and the event: resumed, restarted or failed."""
        code = self.start(number)
        event = f"{number} {self.events()[-1]}"
        if code == 0:  # a thread of TensorBoard's writes when it wants, so numbers of events vary by a few
            return "ended before it", event
        assert code == -signal.SIGKILL, self.output.read_text()
        how = self.way()
        return self.goes_on() or how, event

    def goes_on(self) -> str | None:
        """Go on, and say what is wrong in the end."""
        again = self.again()
        if in_a_fork(lambda: prl(again), self.output):
            return f"failed: {self.output.read_text().strip().splitlines()[-1][:200]}"
        if not self.is_right():
            return "failed: other bits"
        wrong = self.left_behind()
        return f"failed: {wrong} left behind" if wrong else None


def try_run(name: str, home: Home, scratch: Path, every: int, first: int) -> bool:
    """One of the runs; says what came of each kill, and in sum."""
    stage, settings = RUNS[name]
    short = (*SHORT, LENGTH[stage], "2", *settings)
    killed = KilledRuns(lambda run: home.arguments(stage, run, *short), scratch / name)
    counts: collections.Counter[str] = collections.Counter()
    for number in range(first, killed.num_events + 1, every):
        how, event = killed.killed_at(number)
        counts[how.partition(":")[0]] += 1
        print(f"{name} {event}: {how}", flush=True)
    print(f"{name}: {killed.num_events} events; {json.dumps(counts)}", flush=True)
    return not counts["failed"]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], help="all when left out")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every N-th event")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="the first event to try")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prl-kills-") as folder:
        scratch = Path(folder).resolve()
        home = build_home(scratch / "home")
        names = options.runs or list(RUNS)
        sound = [try_run(name, home, scratch, options.every, options.first) for name in names]
    sys.exit(0 if all(sound) else 1)


if __name__ == "__main__":
    main()
