"""`prl judge`: measure a judge on labelled pairs or against people, calibrate it, or compare responses with anchors."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.cli.commands import judge_labels
from prl.cli.commands.judge_calibration import calibrate, template_options
from prl.cli.commands.judge_options import read_options
from prl.cli.commands.judge_reasoning import spent
from prl.cli.commands.sources import errors_in_options
from prl.system.outputs import check_file, is_own_picture, json_with, lines_with, save_picture, write_text

if TYPE_CHECKING:
    from prl.judge import Judge

FIGURES = (
    ("accuracy", "accuracy, both orders averaged"),
    ("accuracy_better_first", "  the better response shown first"),
    ("accuracy_better_second", "  the better response shown second"),
    ("accuracy_length_matched", "  lengths within 10 %"),
    ("accuracy_shorter_wins", "  the shorter response is better"),
    ("baseline_longer", "for comparison: longer is better"),
    ("longer_rate", "the judge chooses the longer one"),
    ("nll", "negative log-likelihood, nats"),
    ("nll_after_temperature", "  after temperature"),
    ("brier", "Brier score"),
    ("brier_after_temperature", "  after temperature"),
    ("ece", "calibration error"),
    ("ece_after_temperature", "  after temperature"),
    ("temperature", "fitted temperature"),
    ("order_gap", "order gap"),
    ("flip_rate", "flip rate"),
    ("first_position_rate", "first-position rate"),
    ("margin", "margin towards the label"),
    ("cyclic_triples", "cyclic triples"),
    ("scale_fit", "share that one scale explains"),
    ("anchor_tau", "agreement of two anchors, tau"),
    ("best_of_n", "the judge's favourite is the best"),
    ("baseline_best_of_n", "for comparison: a draw"),
    ("layout_gap", "change of a margin in batches"),
    ("held_out_attack_rate", "best attack unknown to its training"),
    ("cut_share", "comparisons cut to fit"),
)
"""Figures of the report with their labels, in the order of the screen."""
COLUMNS = ("win_prob", "margin", "order_gap")
"""Columns written for each comparison."""


def main(args: list[str]) -> None:
    """Measure or compare, as the options say."""
    options = read_options(args, __doc__)
    check_outputs(options)
    prepare(options.json, options.figures)
    from prl.judge import Judge

    asked = {name: getattr(options, name) for name in ("reference", "beta", "per_token", "reasoning")}
    settings = {name: value for name, value in asked.items() if value is not None and value is not False}
    judge = Judge.from_pretrained(options.judge, dtype=options.dtype, **settings, **template_options(options))
    if options.verdict_store is not None:
        from prl.judge import StoredJudge

        judge.model = stored = StoredJudge(judge.model, str(options.verdict_store))
        stored.load()
    if options.calibrate is not None:
        calibrate(judge, options)
    elif judge_labels.asked(options) is not None:
        judge_labels.measure(judge, options)
    elif options.pairs is not None:
        measure(judge, options)
    else:
        compare(judge, options)
    if options.verdict_store is not None:
        share, readings = 100 * stored.store.hit_rate, stored.store.lookups.asked
        print(f"\n{share:.1f} % of {readings} readings were in {options.verdict_store}, which now has all")


def check_outputs(options: argparse.Namespace) -> None:
    """Refuse to overwrite inputs, or files that are no earlier result of this command.

    Raises:
        OutputError: naming the file.
    """
    read = [options.judge, options.reference, options.pairs, options.prompts, options.responses, options.anchors]
    read += [options.labels, options.rewardbench, options.calibrate, options.template]
    if options.json is not None and not options.json.is_dir():
        forms = {"pairs": "report", "calibrate": "calibration", "labels": "agreement", "rewardbench": "rewardbench"}
        found = next((name for form, name in forms.items() if getattr(options, form)), None)
        own = lines_with(*COLUMNS) if found is None else json_with("prl", "judge", "data", found)
        check_file(options.json, "--json", own, read)
    if options.figures is not None:
        from prl.evaluation.figures import TAGS

        for tag in TAGS:
            check_file(picture_of(options.figures, tag), "--figures", is_own_picture, read)


def picture_of(folder: Path, tag: str) -> Path:
    """Return the path of a figure."""
    return folder / f"{tag.rpartition('/')[2]}.png"


def prepare(file: Path | None, folder: Path | None) -> None:
    """Create the folders of results, before compute is spent.

    Raises:
        ValueError: when one of the two cannot be written.
    """
    if file is not None and file.is_dir():
        raise ValueError(f"--json {file} is a folder; expected a file")
    for target in ([file.parent] if file is not None else []) + ([folder] if folder is not None else []):
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{target} cannot be made a folder ({error.strerror}); choose another") from None
        if not os.access(target, os.W_OK):
            raise ValueError(f"the folder {target} cannot be written; choose another")


def measure(judge: "Judge", options: argparse.Namespace) -> None:
    """Examine the judge, print one screen, and write the passport where options ask for it."""
    from prl.checkpoints.event_log import json_safe
    from prl.data import DataSource, PreferencePair, load_records
    from prl.judge.examination import judge_pairs
    from prl.judge.passport import as_json, issue_passport, write_passport
    from prl.judge.wrapper import JudgeWrapper
    from prl.rewards.folder import judge_folder

    source = DataSource(options.pairs, options.split, options.name, options.columns, options.max_pairs)
    with errors_in_options():
        pairs = load_records(source, PreferencePair, options.on_invalid, lambda pair: judge.model.check(pair.prompt))
    judge_labels.tell_skipped(pairs.report.skipped)
    judged = judge_pairs(judge.model, pairs.records)
    adaptive = None
    if options.adaptive_error is not None:
        from prl.judge.adaptive import fit_threshold

        adaptive = fit_threshold(judged.verdict, options.adaptive_error, judged.prompts)
    folder, probes = judge_folder(options.judge), not options.no_probes
    # Attacks and batch layouts are about what the judge itself computes.
    bare = judge.model.judge if isinstance(judge.model, JudgeWrapper) else judge.model
    passport = issue_passport(bare, folder, pairs, judged, probes=probes)
    if adaptive is not None:
        passport["adaptive_order"] = json_safe(asdict(adaptive))  # no threshold may do
    # Files first: the reader of the screen may close the pipe.
    if options.json is not None:
        write_text(options.json, as_json(passport))
    written = write_passport(options.judge, passport) if options.write_passport else None
    if options.figures is not None:
        from prl.evaluation.figures import judge_figures

        for tag, figure in judge_figures(judged).items():
            save_picture(figure, picture_of(options.figures, tag))
    print(screen(passport))
    if adaptive is not None:
        print(
            f"\nAdaptiveOrder for an error of {adaptive.error:g}: threshold {adaptive.threshold:.4f}, offset "
            f"{adaptive.offset:.4f}; both orders for {100 * adaptive.second_order_share:.0f} % of the pairs, "
            f"error here {adaptive.found_error:.4f}"
        )
    if written is not None:
        print(f"\nwrote {written}")
    if options.figures is not None:
        print(f"\ndrew reliability, margins, orders and accuracy by length into {options.figures}")


def screen(passport: dict[str, Any]) -> str:
    """Format the verdict by the gate's limits, then the report: figure, 95 % interval over prompts, number of pairs."""
    from prl.config import JudgeGate
    from prl.judge.gate import verdict
    from prl.judge.training_record import in_words

    report = passport["report"]
    counts = f"{report['num_pairs']} pairs, {report['num_prompts']} prompts, {report['num_ties']} ties"
    lines = [*verdict(report, JudgeGate()), ""]
    lines += [f"{passport['judge']['kind']} judge on {passport['data']['file']}: {counts}"]
    lines += [*in_words(passport.get("training")), ""]
    rows = [(words, report[name]) for name, words in FIGURES if name in report]
    rows += [(f"accuracy on {name}", found) for name, found in report["sources"].items()]
    rows += [(f"attack {name} wins", found) for name, found in report.get("canaries", {}).items()]
    lines += [f"{words:<36}{_cells(found)}" for words, found in rows]
    return "\n".join([*lines, *spent(report.get("reasons"))])


def _cells(found: Any) -> str:
    if found is None:
        return "  not measured: the pairs hold no such case"
    if isinstance(found, dict):
        return f"{found['mean']:8.3f}   {found['low']:.3f} to {found['high']:.3f}   of {found['num']}"
    return f"{found:8.3f}"


def compare(judge: "Judge", options: argparse.Namespace) -> None:
    """Judge each response against its anchor, print a line for each, the mean, and how many were cut.

    Raises:
        ValueError: when the files cannot be read, or have unequally many lines.
    """
    paths = {"prompt": options.prompts, "response": options.responses, "anchor": options.anchors}
    prompts, responses, anchors = texts = [read_lines(path, column) for column, path in paths.items()]
    if len({len(each) for each in texts}) > 1:
        counts = [f"{path} has {len(each)}" for path, each in zip(paths.values(), texts, strict=True)]
        raise ValueError(f"the three files need as many lines each, but {', '.join(counts)}")
    verdict = judge.compare(prompts, responses, anchors)
    columns = (verdict.win_prob, verdict.win_logit, verdict.order_gap)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    if options.json is not None:
        write_text(options.json, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{'line':>6} {'win_prob':>9} {'margin':>9} {'order_gap':>9}")
    for number, row in enumerate(rows, 1):
        print(f"{number:>6} {row['win_prob']:>9.3f} {row['margin']:>+9.3f} {row['order_gap']:>9.3f}")
    from prl.evaluation.bootstrap import bootstrap_mean

    mean = bootstrap_mean([row["win_prob"] for row in rows], [json.dumps(prompt) for prompt in prompts])
    print(f"{'mean':>6} {mean.mean:>9.3f}   {mean.low:.3f} to {mean.high:.3f} (95 % over prompts)")
    print(f"{'cut':>6} {judge.model.truncated_fraction():>9.3f}   of the readings, to fit into the judge's max_length")


def read_lines(path: Path, column: str) -> list[Any]:
    """Read one text per line.

    Lines of a .jsonl file are JSON: a string, a list of messages, or an object with the column.

    Raises:
        ValueError: for a missing or empty file, one that is not UTF-8, or a line that is none of these.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; --{column}s takes a file with one {column} per line")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {number}: not text in UTF-8 ({error}); write the file again as UTF-8") from None
    # Other line separators of Unicode may stand in a response, and would shift all lines after it.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if not lines:
        raise ValueError(f"{path} is empty; expected one {column} per line")
    if path.suffix != ".jsonl":
        return lines
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        value = value.get(column) if isinstance(value, dict) else value
        if not isinstance(value, str | list):
            raise ValueError(
                f"{path}, line {number}: expected a JSON string, a list of messages, or an object with {column!r} that "
                f"is one of them; found {line[:60]!r}"
            )
        found.append(value)
    return found
