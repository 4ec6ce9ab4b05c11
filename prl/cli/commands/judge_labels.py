"""`prl judge --labels` and `--rewardbench`: a judge held against people, and the averages of a public benchmark."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.cli.commands.sources import errors_in_options
from prl.system.outputs import write_text

if TYPE_CHECKING:
    from prl.judge import Judge

OTHERS = ("pairs", "prompts", "responses", "anchors", "calibrate", "output", "figures", "no_probes")
"""Options of the other forms of the command."""
SHOWN = 20
"""Annotators with most annotations, and sources, on the screen; the JSON has the others."""

Row = tuple[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --labels, --rewardbench and --tie_margin."""
    parser.add_argument(
        "--labels", help="pairs with what people say of them, a file or hub id: agreement; see docs/agreement.md"
    )
    parser.add_argument(
        "--tie_margin", type=_margin, help="with --labels: largest log-odds that are a tie of the judge (0)"
    )
    parser.add_argument("--rewardbench", help="file or hub id of RewardBench or RewardBench 2: its own averages")


def asked(options: argparse.Namespace) -> str | None:
    """Return the option that asks for one of these two forms; None for the others."""
    return next((name for name in ("labels", "rewardbench") if getattr(options, name)), None)


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program for options that do not go together."""
    form = asked(options)
    if form is None:
        if options.tie_margin is not None:
            parser.error("--tie_margin goes with --labels")
        return
    beside = next((name for name in (*OTHERS, "rewardbench") if getattr(options, name) and name != form), None)
    if beside is not None:
        parser.error(f"--{beside.replace('no_probes', 'no-probes')} does not go with --{form}")
    if form == "rewardbench" and options.tie_margin is not None:
        parser.error("--tie_margin goes with --labels")
    if form == "rewardbench" and options.write_passport:
        parser.error("--write-passport goes with --pairs or --labels; of a benchmark use --json")


def measure(judge: "Judge", options: argparse.Namespace) -> None:
    """Judge, write what the options ask for, and print one screen."""
    (_benchmark if options.rewardbench else _agreement)(judge, options)


def _agreement(judge: "Judge", options: argparse.Namespace) -> None:
    from prl.data import DataSource, load_records
    from prl.data.rows.annotations import AnnotatedPair, Annotations
    from prl.evaluation.judge.people import people_report
    from prl.judge.agreement_passport import check_agreement_passport, keep_agreement
    from prl.judge.annotated import judge_annotated
    from prl.judge.passport import as_json, rounded

    if options.write_passport:
        check_agreement_passport(options.judge, judge.model)
    annotations = Annotations()

    def add(record: AnnotatedPair) -> None:
        judge.model.check(record.prompt)
        annotations.add(record)

    source = DataSource(options.labels, options.split, options.name, options.columns, options.max_pairs)
    with errors_in_options():
        loaded = load_records(source, AnnotatedPair, options.on_invalid, add)
    tell_skipped(loaded.report.skipped)
    tie_margin = options.tie_margin or 0.0
    head = head_of(judge, options)  # before compute is spent: it may fail
    report = rounded(people_report(judge_annotated(judge.model, annotations, tie_margin)))
    data = {
        "file": Path(loaded.report.source).name,
        "file_sha256": loaded.report.sha256,
        "order": "content" if annotations.order_tells() else "file",
        "tie_margin": tie_margin,
    }
    result = {**head, "data": data, "agreement": report}
    if options.json is not None:
        write_text(options.json, as_json(result))
    written = keep_agreement(options.judge, report, data) if options.write_passport else None
    print("\n".join(agreement_screen(result)))
    if written is not None:
        print(f"\nwrote the agreement into {written}")


def _benchmark(judge: "Judge", options: argparse.Namespace) -> None:
    from prl.data import DataSource, RowError, load_records
    from prl.data.rows.benchmark_records import BenchmarkRow
    from prl.judge.benchmark import judge_rewardbench
    from prl.judge.passport import as_json, rounded

    versions: set[int] = set()

    def check_row(row: BenchmarkRow) -> None:
        judge.model.check(row.prompt)
        if versions and row.version not in versions:
            raise RowError("mixed versions", "chosen", "a list" if row.version == 2 else "one response")
        versions.add(row.version)

    source = DataSource(options.rewardbench, options.split, options.name, options.columns, options.max_pairs)
    with errors_in_options():
        loaded = load_records(source, BenchmarkRow, options.on_invalid, check_row)
    tell_skipped(loaded.report.skipped)
    head = head_of(judge, options)  # before compute is spent: it may fail
    report = rounded(judge_rewardbench(judge.model, loaded.records))
    data = {"file": Path(loaded.report.source).name, "file_sha256": loaded.report.sha256}
    result = {**head, "data": data, "rewardbench": report}
    if options.json is not None:
        write_text(options.json, as_json(result))
    print("\n".join(benchmark_screen(result)))


def head_of(judge: "Judge", options: argparse.Namespace) -> dict[str, Any]:
    """Return the first fields of a report: versions and all that decides a margin."""
    from prl import __version__
    from prl.judge.passport import description_of
    from prl.rewards.folder import judge_folder

    return {"prl": __version__, "judge": description_of(judge.model, judge_folder(options.judge))}


def agreement_screen(result: dict[str, Any]) -> Iterator[str]:
    """Format the agreement: figure, 95 % interval over prompts, number of pairs."""
    data, report = result["data"], result["agreement"]
    counts = ", ".join(f"{report[f'num_{name}']} {name}" for name in ("pairs", "prompts", "annotators", "annotations"))
    yield f"{result['judge']['kind']} judge and people on {data['file']}: {counts}"
    if number := report["num_without_majority"]:
        yield f"{number} pairs have no majority and are left out where one is asked for"
    if data["order"] == "content":
        yield "which response is the first is drawn by content: the order of the file tells the labels"
    yield f"a tie of the judge: log-odds of at most {data['tie_margin']:g}, either way"
    yield ""
    yield from _lines(_of_majority(report))
    yield ""
    yield f"{'share of':<44}{'first':>8}{'second':>8}{'tie':>8}"
    for name, words in (("majority", "the majority"), ("annotations", "all annotations"), ("judge", "the judge")):
        shares = report["base_rates"][name].values()
        yield f"  {words:<42}" + "".join("       -" if share is None else f"{share:8.3f}" for share in shares)
    if report["people"] is not None:
        yield ""
        yield from _lines(_of_people(report["people"], report["people_and_judge"]))
        yield from _lines(_of_annotators(report["annotators"]))
        yield from _rest(len(report["annotators"]) - SHOWN, "annotators")
        if number := report["num_annotators_left_out"]:
            yield f"annotators of fewer pairs, who are in all figures above and have none of their own: {number}"
    if report["sources"]:
        yield ""
        rows = [(f"kappa on {name}", found["kappa"]) for name, found in report["sources"].items()]
        yield from _lines(rows[:SHOWN])
        yield from _rest(len(rows) - SHOWN, "sources")


def _of_majority(report: dict[str, Any]) -> list[Row]:
    baselines = report["baselines"]
    return [
        ("judge and majority: Cohen's kappa", report["kappa"]),
        ("  agreement", report["observed"]),
        ("  Gwet's AC1", report["ac1"]),
        ("  kappa where neither says tie", report["kappa_decided"]),
        ("  agreement where neither says tie", report["observed_decided"]),
        ("for comparison: always the commonest", baselines["constant"]),
        ("for comparison: longer is better", baselines["longer"]),
        ("  its kappa", baselines["longer_kappa"]),
    ]


def _of_people(people: dict[str, Any], with_judge: dict[str, Any]) -> list[Row]:
    return [
        ("one of the people and the others: kappa", people["others_kappa"]),
        ("  the judge in their place", people["judge_others_kappa"]),
        ("  judge less people", people["judge_minus_people"]),
        ("  agreement", people["others_observed"]),
        ("  the judge in their place", people["judge_others_observed"]),
        ("people among themselves: two agree", people["observed"]),
        ("  Fleiss' kappa", people["fleiss"]),
        ("  Krippendorff's alpha", people["alpha"]),
        ("  with the judge as one more annotator", with_judge["alpha"]),
        ("  Gwet's AC1", people["ac1"]),
    ]


def _of_annotators(annotators: dict[str, Any]) -> list[Row]:
    rows = []
    for name, found in list(annotators.items())[:SHOWN]:
        rows += [(f"kappa of {name} and the judge", found["judge_kappa"])]
        rows += [("  and the majority of the others", found["others_kappa"])]
    return rows


def benchmark_screen(result: dict[str, Any]) -> Iterator[str]:
    """Format the benchmark's averages, with "longer is better" beside each."""
    report, longer = result["rewardbench"], result["rewardbench"]["longer"]
    name = "RewardBench 2" if report["version"] == 2 else "RewardBench"
    yield f"{result['judge']['kind']} judge on {name}, {result['data']['file']}: {report['num_rows']} rows"
    yield ""
    yield f"{'':<44}{'judge':>8}{'95 % over prompts':>20}{'rows':>8}{'longer':>9}"
    groups = [("subsets", report["subsets"]), ("sections", report["sections"]), ("", {"overall": report["overall"]})]
    for group, figures in groups:
        for each, found in figures.items():
            beside = longer["overall"] if not group else longer[group][each]
            yield f"{each:<44}{_with_baseline(found, beside)}"
        if figures and group:
            yield ""
    if missing := report["missing"]:
        yield f"subsets that this file lacks: {', '.join(missing)}"
    if others := report["without_section"]:
        yield f"subsets that the benchmark does not have, in no average: {', '.join(others)}"


def _with_baseline(found: Any, longer: Any) -> str:
    if found is None:
        return "  not measured: subsets are missing"
    interval = f"{found['low']:.3f} to {found['high']:.3f}"
    beside = "" if longer is None else f"{longer['mean']:9.3f}"
    return f"{found['mean']:8.3f}{interval:>20}{found['num']:>8}{beside}"


def _lines(rows: list[Row]) -> Iterator[str]:
    for words, found in rows:
        yield f"{words:<44}{_cells(found)}"


def _cells(found: Any) -> str:
    if found is None:
        return "  undefined: no such pair, or a single category"
    return f"{found['mean']:8.3f}   {found['low']:.3f} to {found['high']:.3f}   of {found['num']}"


def _rest(number: int, what: str) -> Iterator[str]:
    if number > 0:
        yield f"and {number} more {what}, which --json has"


def tell_skipped(skipped: dict[str, list[int]]) -> None:
    """Print the numbers of the rows that were left out, by reason."""
    for reason, numbers in skipped.items():
        print(f"left out for '{reason}': row {', '.join(map(str, numbers))}")


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = math.nan
    if not 0 <= margin < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected log-odds of 0 or more")
    return margin
