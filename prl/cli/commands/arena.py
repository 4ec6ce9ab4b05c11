"""`prl arena`: one scale of response files, policies and checkpoints, from comparisons chosen under a budget.

The folder --out gets arena.json, arena.png, comparisons.jsonl and the sampled responses. A command that was killed goes
on from there when it is given again, and one with a larger --budget adds to it.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows, positive
from prl.config import DTYPES
from prl.system.outputs import OutputError, check_file, is_own_picture, json_with, save_picture, write_text

if TYPE_CHECKING:
    from prl.cli.arena_players import Player
    from prl.data import AnchoredPrompt
    from prl.judge.base import PairwiseJudge

REPORT, PICTURE, SETTINGS, COMPARISONS = "arena.json", "arena.png", "settings.json", "comparisons.jsonl"


def main(args: list[str]) -> None:
    """Have the players answer, compare their responses, and report."""
    from prl.run_folder import trust

    parser = _parser()
    rest, trusted = trust.take_flag(args)
    options = parser.parse_args(rest)
    options.trusted = trusted
    if options.width is not None and options.width <= 0:
        parser.error(f"--width {options.width}: expected a number above 0, log-odds")
    if (wrong := [each for each in options.players if "=" not in each]) or len(options.players) < 1:
        parser.error(f"--players {wrong[0]}: expected NAME=PATH")
    check_out(options.out)
    run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("prl arena", description=__doc__)
    parser.add_argument("--judge", required=True, help="folder or hub id of a judge")
    parser.add_argument(
        "--prompts", required=True, help="file or hub id of prompts, in any shape of docs/data.md, or .txt"
    )
    parser.add_argument(
        "--players",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="responses (.jsonl, .txt), a policy (folder or hub id), a checkpoint (.ckpt), or a run folder, of which "
        "all checkpoints play",
    )
    parser.add_argument("--budget", type=positive, required=True, help="comparisons to make, each in both orders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or that of an arena to continue")
    parser.add_argument(
        "--width", type=float, help="stop when all 95 %% intervals over prompts are as narrow as this, log-odds"
    )
    parser.add_argument(
        "--outcome",
        choices=("probability", "wins"),
        default="probability",
        help="what a comparison counts: the judge's win probability, or a win with ties as half",
    )
    parser.add_argument(
        "--pairing",
        choices=("adaptive", "uniform"),
        default="adaptive",
        help="compare where the scale learns most, or all pairs equally often",
    )
    parser.add_argument("--block", type=positive, default=32, help="comparisons between two fits of the scale (32)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling, and of the order of comparisons")
    parser.add_argument(
        "--verdict_store", type=Path, help="folder of verdicts: those in it are not judged again, new ones are added"
    )
    parser.add_argument("--dtype", default=DTYPES[0], choices=DTYPES, help="type in which judge and policies work")
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many prompts")
    add_source_options(parser)
    sampling = parser.add_argument_group("players that answer")
    sampling.add_argument("--max_new_tokens", type=positive, default=256, help="length limit of a response (256)")
    sampling.add_argument("--temperature", type=float, default=1.0, help="of the sampling (1)")
    sampling.add_argument("--max_prompt_length", type=positive, default=1024, help="longest prompt in tokens (1024)")
    sampling.add_argument("--sample_batch", type=positive, default=16, help="responses sampled together (16)")
    sampling.add_argument("--chat_template_kwargs", type=json.loads, help="variables of the chat templates, as JSON")
    sampling.add_argument("--keep_thoughts", action="store_true", help="judge what stands before </think> too")
    sampling.add_argument(
        "--trust_run_folder", metavar="true", help="obey the config.yaml of runs also where it names code of others"
    )
    return parser


def check_out(folder: Path) -> None:
    """Refuse a folder that holds something, and no arena.

    Raises:
        OutputError: naming the folder or file.
    """
    is_own = json_with("judge", "prompts", "players")
    settings = folder / SETTINGS
    holds = folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir())  # a lock is no content
    if holds and not (settings.is_file() and is_own(settings)):
        raise OutputError(f"--out {folder} holds something already, and no arena; choose a new folder")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--out {folder} is a file; expected a folder")
    check_file(folder / REPORT, "the report in --out,", json_with("players", "pairs"))
    check_file(folder / PICTURE, "the picture in --out,", is_own_picture)


def run(options: argparse.Namespace) -> None:
    """Make the comparisons, print the scale, and write the files.

    Raises:
        ValueError: for players, prompts or a judge that cannot be read, or a folder of another arena.
    """
    from prl.arena.responses import hash_of
    from prl.cli.arena_players import check_prompts, players_of
    from prl.judge.loading import judge_in
    from prl.judge.stored import StoredJudge, about_judge
    from prl.run_folder.lock import run_lock

    with errors_in_options(can_skip=False):
        records = read_prompts(options)
    players = players_of(options, records)
    num_pairs = len(players) * (len(players) - 1) // 2
    if options.budget < num_pairs:
        raise ValueError(
            f"--budget {options.budget} is less than the {num_pairs} pairs of {len(players)} players; give at least as "
            "many, so that each pair meets once"
        )
    judge = judge_in(options.judge, options.dtype)
    if options.verdict_store is not None:
        judge = StoredJudge(judge, str(options.verdict_store))
    judge.load()
    about = about_judge(judge)
    for number, record in enumerate(records, 1):
        _check_prompt(judge, record, number)
    check_prompts(players, options, records)
    with run_lock(options.out, "out"):
        check_settings(options, about, hash_of([list(record.prompt) for record in records]), players)
        _play(options, records, players, judge, about)


def _play(
    options: argparse.Namespace,
    records: "list[AnchoredPrompt]",
    players: "dict[str, Player]",
    judge: "PairwiseJudge",
    about: dict[str, Any],
) -> None:
    """Have the players answer, compare, print the scale, and write the files."""
    import torch

    from prl.arena.playing import Arena
    from prl.arena.responses import hash_of
    from prl.cli.arena_players import answers
    from prl.cli.arena_screen import show

    responses = answers(players, options, records)
    judge.to("cuda" if torch.cuda.is_available() else "cpu")
    arena = Arena(
        [record.prompt for record in records],
        {name: each.texts for name, each in responses.items()},
        judge.compare,
        judge=hash_of(about),
        folder=options.out,
        outcome=options.outcome,
        adaptive=options.pairing == "adaptive",
        block=options.block,
        seed=options.seed,
    )
    stopped = arena.play(options.budget, options.width)
    unfinished = {name: each.finished.count(False) for name, each in responses.items()}
    report = {**arena.report(), "stopped": stopped, "unfinished_responses": unfinished, "judge": about}
    write(options.out, report)
    show(report)
    if failed := report["failed"]:
        print(f"{failed} comparisons failed and count nowhere: {judge.failure()}")
    if cut := judge.truncated_fraction():
        print(f"{100 * cut:.1f} % of what the judge read was cut to its max_length")
    print(f"wrote {options.out / REPORT} and {options.out / PICTURE}")


def read_prompts(options: argparse.Namespace) -> "list[AnchoredPrompt]":
    """Read the prompts: lines of a .txt file, else rows in any shape of docs/data.md.

    Raises:
        ValueError: for a file that cannot be read, or bad rows.
    """
    from prl.cli.commands.judge import read_lines
    from prl.data import AnchoredPrompt, DataSource, load_records

    if Path(options.prompts).suffix == ".txt":
        lines = read_lines(Path(options.prompts), "prompt")[: options.limit]
        return [record for line in lines for record in AnchoredPrompt.parse({"prompt": line})]
    source = DataSource(options.prompts, options.split, options.name, options.columns, options.limit)
    return load_records(source, AnchoredPrompt).records


def _check_prompt(judge: Any, record: "AnchoredPrompt", number: int) -> None:
    from prl.data.rows.records import RowError

    try:
        judge.check(record.prompt)
    except RowError as error:
        raise ValueError(f"prompt {number}: the judge cannot read it: {error}") from None


def check_settings(options: argparse.Namespace, judge: dict[str, Any], prompts: str, players: dict[str, Any]) -> None:
    """Refuse to continue an arena of another judge, other prompts, players or settings; write those of a new one.

    Budget and width may change; all else too while there is no comparison, but for what sampled responses depend on.

    Raises:
        ValueError: naming the first difference.
    """
    from prl.cli.arena_players import RESPONSES, responses_file

    names = ("outcome", "pairing", "block", "seed")
    now = {
        **{"judge": judge, "prompts": prompts, "players": {name: each.about for name, each in players.items()}},
        **{name: getattr(options, name) for name in names},
    }
    now = json.loads(json.dumps(now))
    file, comparisons = options.out / SETTINGS, options.out / COMPARISONS
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    has_begun = comparisons.exists() and comparisons.stat().st_size > 0
    has_responses = any((options.out / RESPONSES).glob("*.jsonl"))
    for name in now if before else ():
        if before.get(name) == now[name]:
            continue
        old, new = (each[name] if isinstance(each.get(name), dict) else {} for each in (before, now))
        changed = [part for part in {**old, **new} if old.get(part) != new.get(part)]
        if not has_begun and name == "players":
            changed = [part for part in changed if part in new and responses_file(options.out, part).exists()]
        if not has_begun and not (changed if name == "players" else has_responses and name == "prompts"):
            continue
        which = f" ({changed[0]})" if changed else ""
        raise ValueError(
            f"--out {options.out} holds an arena with other {name}{which}; give what it was begun with, or choose "
            "another folder"
        )
    if before != now:
        write_text(file, json.dumps(now, indent=2) + "\n")


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write the report and its picture."""
    from prl.evaluation.arena.figure import draw_arena

    write_text(folder / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")
    save_picture(draw_arena(report), folder / PICTURE)
