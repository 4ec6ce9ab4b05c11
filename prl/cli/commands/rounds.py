"""`prl rounds`: improve a policy in rounds; in each it is sampled, judged, and trained on pairs or the best responses.

Give a config of configs/rounds. OUT/round=N holds the rows, the run and the model of a round, OUT/rounds.json a table.
A command that was killed goes on where it was when it is given again, also with more rounds (--rounds.number). All
settings: `prl rounds --config FILE --out DIR --print_config`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from prl.system.json_files import read_object
from prl.system.outputs import OutputError, write_text

SETTINGS = "settings.json"
TABLE = "rounds.json"


def main(args: list[str]) -> None:
    """Make the rounds that are not there yet, and print the table."""
    parser = argparse.ArgumentParser("prl rounds", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="settings; the last word counts"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the rounds")
    options, further = parser.parse_known_args(args)
    from prl.cli.rounds_config import RoundsConfig

    config = RoundsConfig([*(f"--config={file}" for file in options.config), *further])
    from prl.cli.round_fits import check_started_once, needs_processes
    from prl.run_folder.lock import run_lock
    from prl.system.signals import exiting_on_signals

    check_started_once()
    fit = config.resolved_fit(options.out)
    apart = needs_processes(fit)
    stopped = f"prl: stopped; the same command goes on with the rounds in {options.out}"
    with run_lock(options.out, "out"), exiting_on_signals(stopped):
        _check_settings(options.out, config.plain())
        reports = [_round(config, options.out, number, apart) for number in range(1, config.rounds.number + 1)]
        write_text(options.out / TABLE, json.dumps(reports, indent=2) + "\n")
    _show(reports)


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of the first start, and refuse others later, but for more rounds.

    Raises:
        OutputError: for a folder of other settings, or of something else.
    """
    from prl.rounds.kept import changes

    file = out / SETTINGS
    if not file.exists():
        if found := next((path for path in out.iterdir() if not path.name.startswith(".")), None):
            raise OutputError(f"--out {out} holds {found.name} and no rounds; choose another folder")
        write_text(file, json.dumps(settings, indent=2) + "\n")
        return
    before = read_object(file)
    before["rounds"]["number"] = settings["rounds"]["number"]
    if changed := changes(before, settings):
        raise OutputError(f"--out {out} has rounds of other settings ({', '.join(changed)}); choose another folder")


def _round(config: Any, out: Path, number: int, apart: bool) -> dict[str, Any]:
    """Make what is not there yet of a round, and return its report."""
    from prl.cli.round_fits import run_fit
    from prl.models.extrapolation import extrapolate
    from prl.pairs.parts import parts_of

    folder = out / f"round={number}"
    report = folder / "report.json"
    if report.exists():
        return read_object(report)
    start = config.policy
    policy = start if number == 1 else str(_model(config, out, number - 1))
    kind: str = config.rows
    rows, run = folder / f"{kind}.jsonl", folder / "fit"
    print(f"round {number} of {config.rounds.number}: {folder}", flush=True)
    if not rows.exists() or parts_of(rows).exists():
        part = ((number - 1) % config.rounds.prompt_shares, config.rounds.prompt_shares)
        config.maker(policy, number).write(rows, {"round": number, "policy": policy}, part)
    counts = read_object(rows.with_suffix(".provenance.json"))["counts"]
    if not counts.get(kind):
        raise ValueError(f"round {number} made no {kind} of its prompts ({counts}); see {rows}")
    if not (run / "model").exists():
        run_fit(config.fit_arguments(policy, number, rows, run), apart)
    if config.rounds.extrapolation and not (folder / "model").exists():
        before = start if number == 1 else out / f"round={number - 1}" / "fit" / "model"
        extrapolate(run / "model", before, config.rounds.extrapolation, folder / "model")
    found = {"round": number, "policy": policy, "model": str(_model(config, out, number)), kind: counts}
    if config.validation is not None:
        found |= _measured(config, out, number, found["model"])
    write_text(report, json.dumps(found, indent=2) + "\n")
    return found


def _model(config: Any, out: Path, number: int) -> Path:
    folder = out / f"round={number}"
    return folder / "model" if config.rounds.extrapolation else folder / "fit" / "model"


def _measured(config: Any, out: Path, number: int, model: str) -> dict[str, Any]:
    from prl.rounds.measuring import REVISED, measure, sampled_texts

    first = out / "start.json"
    if not first.exists():
        texts = sampled_texts(config.maker(config.policy, 0), config.validation)
        write_text(first, json.dumps(texts))
    before = json.loads(first.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for name, revisions in {"": 0, REVISED: config.rounds.revisions}.items():
        if revisions or not name:
            samples = out / f"round={number}" / f"{name}samples.jsonl"
            maker, heldout = config.maker(model, 0), config.heldout()
            figures = measure(maker, config.validation, before, samples, heldout, revisions)
            found |= {f"{name}{figure}": value for figure, value in figures.items()}
    return found


def _show(reports: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from prl.rounds.measuring import HELD_OUT, REVISED

    table = Table(title="rounds; win rate of sampled responses against the start's, under the reward that trains")
    kind = "pairs" if "pairs" in reports[0] else "demonstrations"
    names = {"": "win rate", HELD_OUT: "held-out win rate", REVISED: "revised win rate"}
    names = {name: words for name, words in names.items() if f"{name}win_rate" in reports[-1] or not name}
    for column in ("round", "prompts", kind, *(each for name in names.values() for each in (name, "95 %"))):
        table.add_column(column, justify="right")
    table.add_column("characters", justify="right")
    for each in reports:
        cells = [str(each["round"]), str(each[kind]["prompts"]), str(each[kind][kind])]
        for name in names:
            rate, low, high = (each.get(f"{name}{part}") for part in ("win_rate", "low", "high"))
            cells += ["", ""] if rate is None else [f"{rate:.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(*cells, f"{each['characters']:.1f}" if "characters" in each else "")
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width, and words would be broken
    console.print(table)
    console.print(f"the last policy: {reports[-1]['model']}", soft_wrap=True, highlight=False)
