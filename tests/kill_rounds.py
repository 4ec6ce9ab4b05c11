"""End short rounds in each of their steps, go on with each, and compare the end with that of uninterrupted ones.

    python -m tests.kill_rounds              # an event of each step, by SIGKILL, and some by SIGTERM and SIGINT
    python -m tests.kill_rounds --every 10   # every tenth file event, by SIGKILL

Exits with 1 when rounds do not end to the bit where they should, or are stopped in other words than they should be.
"""

import argparse
import json
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from prl.checkpoints.files import holds_checkpoints
from prl.checkpoints.ledger import LEDGER
from tests.integration.rounds import rounds_arguments, write_rounds
from tests.integration.runs import build_home
from tests.kill_events import KilledRuns

CHECKPOINT = "open round=2/fit/checkpoints/batch-000002.partial w"
"""Behind the first of two batches, whose checkpoint is whole."""
STEPS = {
    "sampling": "os.rename round=1/pairs.parts/.prl.000000004.json.partial",
    "writing pairs": "open round=2/.prl.pairs.jsonl.partial w",
    "deleting the parts of pairs": "os.remove round=1/pairs.parts/000000000.json",
    "training": "open round=1/fit/ledger.jsonl w",
    "training behind a checkpoint": CHECKPOINT,
    "exporting": "open round=1/fit/.prl.model.partial/generation_config.json w",
    "extrapolating": "open round=2/.prl.model.partial/config.json w",
    "measuring the start": "os.rename .prl.start.json.partial",
    "measuring": "open round=1/.prl.samples.jsonl.partial w",
    "reporting": "os.rename round=2/.prl.report.json.partial",
}
"""What rounds do -> a file event of it."""
STOPPED = ("sampling", "training behind a checkpoint", "extrapolating", "measuring")
"""Steps that are ended by signals too that ask for it."""


class KilledRounds(KilledRuns):
    """`prl rounds`, killed at its events."""

    def end(self) -> dict[str, bytes]:
        """Rows, reports, tables and models, by their names."""
        files = [path for name in ("*.jsonl", "*.json", "*.safetensors") for path in self.run.rglob(name)]
        # Ledgers have a line for each start, and manifests name the time.
        kept = [path for path in files if path.name != LEDGER and path.parent.name != "checkpoints"]
        return {str(path.relative_to(self.run)): path.read_bytes() for path in sorted(kept)}

    def is_right(self) -> bool:
        """Whether all files are there, to the last bit."""
        return self.end() == self.expected

    def again(self) -> list[str]:
        """Return the same command."""
        return self.arguments(self.run)

    def way(self) -> str:
        """How the training of the last round will go on, where it has begun and not ended."""
        begun = [fit for fit in self.run.glob("round=*/fit") if not (fit / "model").exists()]
        return "resumed" if begun and holds_checkpoints(begun[-1] / "checkpoints") else "went on"

    def left_behind(self) -> list[str]:
        """Names of what should not be there in the end."""
        return [path.name for name in ("*.partial", "*.old", "*.parts") for path in self.run.rglob(name)]

    def stopped_at(self, number: int, by: signal.Signals) -> str | None:
        """Ask for a stop before this event, go on, and say what is wrong."""
        code, said = self.start(number, by), self.output.read_text()
        if code != 128 + by:
            return f"failed: exit code {code}, {said.strip()[-300:]}"
        if f"prl: stopped; the same command goes on with the rounds in {self.run}" not in said or "Traceback" in said:
            return f"failed: {said.strip()[-300:]}"
        if half := [path.name for path in self.run.rglob("*.partial")]:
            return f"failed: {half} left half written"
        return self.goes_on()

    def resumed_from(self, fit: str) -> list[int]:
        """Completed batches from which each start of a training went on."""
        lines = map(json.loads, (self.run / fit / LEDGER).read_text().splitlines())
        return [line["session"]["resumed"] for line in lines if "session" in line]


def try_steps(rounds: KilledRounds) -> bool:
    """One event of each step; says what came of it."""
    events, sound = rounds.events(), True
    for step, event in STEPS.items():
        number = events.index(event) + 1
        found = rounds.killed_at(number)[0]
        if event == CHECKPOINT and rounds.resumed_from("round=2/fit") != [0, 1]:
            found = f"failed: the training went on from batches {rounds.resumed_from('round=2/fit')}"
        told = {"SIGKILL": found}
        if step in STOPPED:
            told |= {by.name: rounds.stopped_at(number, by) or "went on" for by in (signal.SIGTERM, signal.SIGINT)}
        print(f"{step}: {told}", flush=True)
        sound = sound and not any(each.startswith("failed") for each in told.values())
    return sound


def try_events(rounds: KilledRounds, every: int) -> bool:
    """Each event of some; says what came of it."""
    sound = True
    for number in range(1, rounds.num_events + 1, every):
        how, event = rounds.killed_at(number)
        print(f"{event}: {how}", flush=True)
        sound = sound and not how.startswith("failed")
    return sound


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, metavar="N", help="try every N-th event, and no others")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="prl-kills-") as folder:
        scratch = Path(folder).resolve()
        config = write_rounds(build_home(scratch / "home"), scratch / "rounds.yaml")
        rounds = KilledRounds(lambda out: rounds_arguments(config, out), scratch / "rounds")
        sys.exit(0 if (try_events(rounds, options.every) if options.every else try_steps(rounds)) else 1)


if __name__ == "__main__":
    main()
