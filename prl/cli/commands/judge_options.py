"""Options of `prl judge`: what there is, and what goes together."""

import argparse
from pathlib import Path

from prl.cli.commands import judge_labels
from prl.cli.commands.judge_calibration import add_calibration_options, check_calibration_options
from prl.cli.commands.judge_reasoning import add_reasoning_option
from prl.cli.commands.sources import add_source_options, number_of_rows
from prl.config import DTYPES

OF_GENERATIVE = ("template", "verdicts", "answer_prefix", "no_chat", "reasoning")
"""Options of a judge that is asked in words, which an implicit reward is not."""


def read_options(args: list[str], description: str | None) -> argparse.Namespace:
    """Read the command line; end the program for options that are wrong or do not go together."""
    parser = _parser(description)
    options = parser.parse_args(args)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    lines = (options.prompts, options.responses, options.anchors)
    judge_labels.check(parser, options)
    further = judge_labels.asked(options)
    forms = (options.pairs is not None, options.calibrate is not None, further is not None, all(lines))
    if sum(forms) != 1 or any(lines) != all(lines):
        parser.error(
            "give either --pairs, or --prompts, --responses and --anchors, or --calibrate, --labels or --rewardbench"
        )
    check_calibration_options(parser, options)
    if options.calibrate is not None and options.verdict_store is not None:
        parser.error("--verdict_store does not go with --calibrate, which measures what the judge computes")
    of_pairs = ["adaptive_error"] if further else ["write_passport", "figures", "adaptive_error"]
    of_pairs += [] if further or options.calibrate else ["max_pairs", "columns", "split", "name"]
    if options.pairs is None and (given := [name for name in of_pairs if getattr(options, name)]):
        parser.error(f"--{_option(given[0])} goes with --pairs")
    if options.no_probes and (options.pairs is None or options.write_passport):
        parser.error("--no-probes goes with --pairs and without --write-passport: a passport holds the probes too")
    if all(lines) and options.on_invalid == "skip":
        parser.error("--on_invalid skip does not go with --prompts, --responses and --anchors, whose every line counts")
    if options.reference is not None and (given := [name for name in OF_GENERATIVE if getattr(options, name)]):
        parser.error(f"--{_option(given[0])} does not go with --reference, whose implicit reward is read in no words")
    if options.reference is None and (options.beta is not None or options.per_token):
        parser.error("--beta and --per_token go with --reference")
    if options.write_passport and options.reference is not None:
        parser.error("--write-passport is of a judge in one folder, and with --reference there are two; use --json")
    if options.write_passport and options.verdict_store is not None:
        parser.error("--write-passport goes without --verdict_store: it measures what the judge computes; use --json")
    if options.write_passport and not Path(options.judge).is_dir():
        parser.error(
            f"--write-passport writes into the judge's folder, and {options.judge} is no folder; make one with "
            "`prl judge --calibrate PAIRS --output DIR`, or of a judge on the hub with `hf download ID --local-dir DIR`"
        )


def _option(name: str) -> str:
    return name.replace("write_", "write-").replace("adaptive_", "adaptive-").replace("no_chat", "no-chat")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("prl judge", description=description)
    parser.add_argument("--judge", required=True, help="folder or hub id of a judge, or with --reference of a policy")
    parser.add_argument("--pairs", help="preference pairs to measure it on, a file or hub id; see docs/judge.md")
    judge_labels.add_options(parser)
    add_source_options(parser)
    parser.add_argument(
        "--reference",
        help="reference of a policy that was trained on pairs: then --judge is the policy, and its implicit reward "
        "judges",
    )
    parser.add_argument("--beta", type=float, help="scale of the implicit reward (0.1)")
    parser.add_argument("--per_token", action="store_true", help="divide the implicit reward by the number of tokens")
    parser.add_argument(
        "--dtype", default=DTYPES[0], choices=DTYPES, help="type in which the judge works; the passport says it"
    )
    add_reasoning_option(parser)
    parser.add_argument("--max_pairs", type=number_of_rows, help="read only the first so many rows")
    parser.add_argument("--on_invalid", choices=("error", "skip"), default="error", help="what bad rows are")
    parser.add_argument(
        "--no-probes",
        action="store_true",
        help="judge the pairs only: no attacks, no round robins, no other batch layouts, which take as long again",
    )
    parser.add_argument(
        "--write-passport", action="store_true", help="keep the report as rm_passport.json in the folder"
    )
    parser.add_argument(
        "--adaptive-error",
        type=_error,
        help="fit the settings of AdaptiveOrder, which reads the second order of near comparisons only, so that win "
        "probabilities differ from those of both orders by at most this much on average",
    )
    parser.add_argument(
        "--verdict_store", type=Path, help="folder of verdicts: read what is there, and keep there what is computed"
    )
    parser.add_argument("--figures", type=Path, help="draw what the report says as pictures into this folder")
    parser.add_argument("--prompts", type=Path, help="one prompt per line; with --responses and --anchors")
    parser.add_argument("--responses", type=Path, help="one response per line, to these prompts")
    parser.add_argument("--anchors", type=Path, help="one response per line to compare each with")
    add_calibration_options(parser)
    parser.add_argument("--json", type=Path, help="write what is found into this file")
    return parser


def _error(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no error between 0 and 1")
    return value
