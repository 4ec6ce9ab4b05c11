"""`prl judge --calibrate`: fit temperature and position offset on labelled pairs, and write a judge's folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.cli.commands.judge_labels import head_of, tell_skipped
from prl.cli.commands.sources import errors_in_options, positive
from prl.system.outputs import check_folder, write_text

if TYPE_CHECKING:
    from prl.judge import Judge
    from prl.verdict import Verdict

SHOWN = (
    ("accuracy", "accuracy, both orders averaged"),
    ("nll", "negative log-likelihood, nats"),
    ("ece", "calibration error"),
    ("order_gap", "order gap"),
    ("flip_rate", "flip rate"),
    ("first_position_rate", "first-position rate"),
)


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Add --calibrate and --output, and the settings of a model whose folder names none."""
    parser.add_argument(
        "--calibrate", metavar="PAIRS", help="pairs on which temperature and position offset are fitted; with --output"
    )
    parser.add_argument("--output", type=Path, help="folder for the calibrated judge, which names the model it is for")
    of_plain = parser.add_argument_group("a model that was not trained as a judge")
    of_plain.add_argument(
        "--template",
        type=Path,
        help="file with its prompt: {{ prompt }}, {{ response_a }}, {{ response_b }}",
    )
    of_plain.add_argument(
        "--verdicts", nargs=2, metavar=("FIRST", "SECOND"), help="words for the better response, one token each (A B)"
    )
    of_plain.add_argument("--answer_prefix", help="text of the answer before the verdict word")
    of_plain.add_argument("--no-chat", action="store_true", help="do not put the prompt into the model's chat template")
    of_plain.add_argument("--max_length", type=positive, help="longest comparison, tokens")


def check_calibration_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program for options that do not go together."""
    if (options.calibrate is None) != (options.output is None):
        parser.error("--calibrate takes the pairs to fit on, and --output the folder to write: give both, or neither")
    if options.output is not None:
        check_folder(options.output, "--output")
        if options.json is not None and options.json.resolve().is_relative_to(options.output.resolve()):
            parser.error(f"--json {options.json} lies in the folder of --output; choose another place")


def template_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a judge that the options set.

    Raises:
        ValueError: naming the file, when it cannot be read or holds no template of a judge.
    """
    from prl.judge.template import JudgeTemplate

    given: dict[str, Any] = {}
    if options.template is not None:
        try:
            given["text"] = options.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--template {options.template} cannot be read ({error}); give a text file") from None
    if options.verdicts is not None:
        given["verdicts"] = tuple(options.verdicts)
    if options.answer_prefix is not None:
        given["answer_prefix"] = options.answer_prefix
    if options.no_chat:
        given["chat"] = False
    found: dict[str, Any] = {"template": JudgeTemplate(**given)} if given else {}
    return found if options.max_length is None else {**found, "max_length": options.max_length}


def calibrate(judge: "Judge", options: argparse.Namespace) -> None:
    """Fit on the pairs, write the folder, and print the figures on these pairs before and after."""
    from prl.checkpoints.event_log import json_safe
    from prl.data import DataSource, PreferencePair, load_records
    from prl.judge.calibrated import check_can_calibrate, fit_calibration, write_calibrated
    from prl.judge.examination import judge_pairs
    from prl.judge.passport import as_json, rounded

    check_can_calibrate(judge.model)
    source = DataSource(options.calibrate, options.split, options.name, options.columns, options.max_pairs)
    with errors_in_options():
        pairs = load_records(source, PreferencePair, options.on_invalid, lambda pair: judge.model.check(pair.prompt))
    tell_skipped(pairs.report.skipped)
    head = None if options.json is None else head_of(judge, options)  # before compute is spent: it may fail
    judged = judge_pairs(judge.model, pairs.records)
    found = fit_calibration(judged)
    write_calibrated(judge.model, options.judge, options.output, found)
    before, after = _figures(judged.verdict, judged.targets), _figures(found.apply(judged.verdict), judged.targets)
    fitted = {"temperature": found.temperature, "position_offset": found.position_offset}
    if head is not None:
        data = {
            "file": Path(pairs.report.source).name,
            "file_sha256": pairs.report.sha256,
            "num_pairs": len(judged.targets),
            "num_prompts": len(set(judged.prompts)),
        }
        figures = {
            **{name: each._asdict() for name, each in fitted.items()},
            "before": json_safe(before),
            "after": json_safe(after),
        }
        write_text(options.json, as_json(rounded({**head, "data": data, "calibration": figures})))
    for name, each in fitted.items():
        print(f"{name.replace('_', ' '):<36}{each.mean:8.3f}   {each.low:.3f} to {each.high:.3f} (95 % over prompts)")
    print(f"\non these {len(pairs.records)} pairs{'before':>25}{'after':>11}")
    for figure, words in SHOWN:
        print(f"{words:<36}{before[figure]:8.3f}   {after[figure]:8.3f}")
    print(f"\nwrote {options.output}; it names the model that it is for and holds no weights")


def _figures(verdict: "Verdict", targets: Any) -> dict[str, float]:
    from prl.evaluation.judge.report import judge_metrics

    return judge_metrics(verdict, targets)
