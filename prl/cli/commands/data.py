"""`prl data FILE|HUB_ID`: describe a data set before training on it."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows, positive
from prl.config import ModelSource

if TYPE_CHECKING:
    from prl.data import DataSource, Record

KINDS = ("pairs", "prompts", "demonstrations")
PICTURES = ("image_pairs", "captions")
"""Kinds of rows that name pictures, which are opened."""
CHARACTERS_SHOWN = 200
"""Beginning of a text of the first record; the JSON has all."""


def main(args: list[str]) -> None:
    """Describe a data set. Bad rows under `--on_invalid error` are an error, as in training."""
    parser = argparse.ArgumentParser("prl data", description=__doc__)
    parser.add_argument("source", help=".jsonl, .jsonl.gz, .json, .csv or .parquet file, or a hub id")
    parser.add_argument("--kind", choices=(*KINDS, *PICTURES), default="pairs", help="what the rows are")
    add_source_options(parser)
    parser.add_argument("--limit", type=number_of_rows, help="read only the first rows")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of a model: lengths in tokens too")
    parser.add_argument(
        "--show-tokens", type=positive, default=0, metavar="N", help="print tokens of the first N records"
    )
    parser.add_argument("--on_invalid", choices=["skip", "error"], default="skip", help="what bad rows are")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(args)
    if options.show_tokens and not options.tokenizer:
        parser.error("--show-tokens needs --tokenizer")
    if options.tokenizer and options.kind in PICTURES:
        parser.error(f"--tokenizer is of texts; leave it out with --kind {options.kind}")
    found = (described_pictures if options.kind in PICTURES else described)(options)
    print(json.dumps(found, indent=2) if options.json else as_text(found))


def described(options: argparse.Namespace) -> dict[str, Any]:
    """Describe the data as a JSON object."""
    from prl.data import DataError, DataSource, load_records
    from prl.data.images import names_picture
    from prl.evaluation.data_summary import describe

    source = DataSource(options.source, options.split, options.name, options.columns, options.limit)
    try:
        with errors_in_options():
            loaded = load_records(source, kinds()[options.kind], options.on_invalid)
    except DataError as error:
        # The error suggests columns by name already; another kind would be a worse guess.
        is_guessed = "--columns" in str(error) and "=COLUMN" not in str(error)
        if is_guessed or (better := better_kind(source, options.kind)) is None:
            raise
        raise DataError(f"{error}\nThe first row reads as one of {better}: add --kind {better}.") from error.__cause__
    found: dict[str, Any] = {"report": loaded.report.as_dict(), "first": first_record(loaded.records[0])}
    if loaded.report.unknown_columns and (better := better_kind(source, options.kind)):
        found["better_kind"] = better
    if names_picture(getattr(loaded.records[0], "chosen", "")):
        found["are_pictures"] = True
    if not options.tokenizer:
        return found | describe(loaded.records)
    from prl.data.marks import encode_content
    from prl.models.loading import load_tokenizer

    tokenizer = load_tokenizer(ModelSource(path=options.tokenizer))
    found |= describe(loaded.records, lambda text: encode_content(tokenizer, text))
    if shown := [tokens_of(tokenizer, record) for record in loaded.records[: options.show_tokens]]:
        found["tokens"] = shown
    return found


def described_pictures(options: argparse.Namespace) -> dict[str, Any]:
    """Describe rows that name pictures as a JSON object."""
    from prl.data import DataSource
    from prl.data.rows.image_records import CaptionedImage, ImagePair
    from prl.evaluation.picture_summary import describe_pictures

    source = DataSource(options.source, options.split, options.name, options.columns, options.limit)
    with errors_in_options():
        kind = ImagePair if options.kind == "image_pairs" else CaptionedImage
        loaded, found = describe_pictures(source, kind, options.on_invalid)
    return {"report": loaded.report.as_dict(), "first": first_record(loaded.records[0]), **found}


def kinds() -> "dict[str, type[Record]]":
    """Map names on the command line to kinds of record."""
    from prl.data import AnchoredPrompt, Demonstration, PreferencePair

    return dict(zip(KINDS, (PreferencePair, AnchoredPrompt, Demonstration), strict=True))


def better_kind(source: "DataSource", kind: str) -> str | None:
    """Find a kind that reads more columns of the first row; None where `kind` reads most, or the row is bad itself."""
    from prl.data import DataError, RowError
    from prl.data.rows.reading import renamed
    from prl.data.rows.sources import is_written, load_dataset, raw_rows

    unread: dict[str, int] = {}
    try:
        _, raw = next(raw_rows(source, lambda: load_dataset(source)))
    except (DataError, StopIteration):
        return None
    if isinstance(raw, RowError):
        return None
    for name, record in kinds().items():
        try:
            row = record.row(renamed(raw, source.columns or {}), is_written(source))
            record.from_row(row)
            unread[name] = len(row.extra())
        except RowError as error:
            if name == kind and error.reason != "missing column":
                return None
    best = min(unread, key=unread.__getitem__, default=kind)
    return best if unread and (kind not in unread or unread[best] < unread[kind]) else None


def first_record(record: "Record") -> dict[str, str]:
    """Show a record as it was read: part -> text."""
    parts = {"prompt": "\n".join(f"{message['role']}: {message['content']}" for message in record.prompt)}
    names = ("chosen", "rejected", "completion", "image")
    parts |= {name: getattr(record, name) for name in names if hasattr(record, name)}
    return parts | {f"anchor {number}": text for number, text in enumerate(getattr(record, "anchors", ()))}


def tokens_of(tokenizer: Any, record: "Record") -> dict[str, list[str]]:
    """Tokenise the parts of a record, the prompt through the chat template."""
    from prl.data.encoding import encode_prompt
    from prl.data.marks import encode_content

    parts = {"prompt": encode_prompt(tokenizer, record.prompt)}
    for name in ("chosen", "rejected", "completion"):
        if hasattr(record, name):
            parts[name] = encode_content(tokenizer, getattr(record, name))
    for number, anchor in enumerate(getattr(record, "anchors", ())):
        parts[f"anchor {number}"] = encode_content(tokenizer, anchor)
    show = lambda token: tokenizer.decode([token], clean_up_tokenization_spaces=False)  # noqa: E731
    return {name: [show(token) for token in ids] for name, ids in parts.items()}


def _rows_of_pictures(found: dict[str, Any]) -> list[tuple[str, str]]:
    """List what was found of pictures; nothing for texts."""
    if "sizes" not in found:
        return []
    rows = [("pictures", f"{found['num_pictures']} different ones")]
    rows += [("size", f"{size}: {count}") for size, count in found["sizes"].items()]
    if found.get("num_identical"):
        rows.append(("identical", f"{found['num_identical']} pairs of one picture, which training leaves out"))
    return rows


def as_text(found: dict[str, Any]) -> str:
    """Format the summary for one screen. Control characters in the data cannot steer the terminal: see `printable`."""
    from prl.data.rows.reading import ROWS_SHOWN
    from prl.data.rows.row_errors import printable
    from prl.evaluation.data_summary import QUANTILES

    report = found["report"]
    rows = [
        ("source", report["source"]),
        ("rows", f"{report['num_read']} read, {report['num_kept']} kept, {report['num_records']} records"),
    ]
    for reason, numbers in report["skipped"].items():
        listed = ", ".join(map(str, numbers[:ROWS_SHOWN])) + (", ..." if len(numbers) > ROWS_SHOWN else "")
        rows.append(("left out", f"{len(numbers)} for '{reason}': row {listed}"))
    rows += [("shape", f"{name}: {count}") for name, count in report["shapes"].items()]
    rows += [("label", f"{name}: {count}") for name, count in report["labels"].items()]
    if report["unknown_columns"]:
        rows.append(("not read", ", ".join(report["unknown_columns"])))
    if "better_kind" in found:
        rows.append(("hint", f"--kind {found['better_kind']} reads more columns of these rows"))
    if "are_pictures" in found:
        rows.append(("hint", "responses name pictures; --kind image_pairs opens them"))
    rows.append(("unique prompts", str(found["num_prompts"])))
    rows += _rows_of_pictures(found)
    if "sizes" not in found:
        rows.append(("stripped", f"{report['num_stripped']} responses had white space at their ends"))
    if "num_without_anchor" in found:
        rows.append(("without anchor", str(found["num_without_anchor"])))
    if "num_duplicates" in found:
        rows.append(("duplicates", f"{found['num_duplicates']}, contradictions {found['num_contradictions']}"))
    if "labels" in found:
        labels = "{hard} hard, {soft} soft, {ties} ties; rejected better in {rejected_better}"
        rows.append(("preferences", labels.format(**found["labels"])))
    if "separability" in found:
        if (probe := found["separability"]) is not None:
            read = "tokens" if "tokens" in found["lengths"] else "words"
            accuracy, low, high = (100 * probe[name] for name in ("accuracy", "low", "high"))
            apart = f"{accuracy:.1f} %, {low:.1f} to {high:.1f} (a coin: 50), {probe['num_pairs']} pairs"
            rows.append(("told apart", f"by {read} alone {apart}"))
        if (same := found["same_source"]) is not None:
            rows.append(("one source", f"{100 * same['share']:.1f} % of {same['num_pairs']} pairs"))
        if report["num_ties"]:
            rows.append(("equal ranks", f"{report['num_ties']} pairs left out"))
    text = [f"{name:<16}{value}" for name, value in rows]
    for unit, parts in found["lengths"].items():
        text += ["", f"{unit:<16}" + "".join(f"{name:>9}" for name in QUANTILES)]
        text += [f"  {part:<14}" + "".join(f"{parts[part][name]:>9}" for name in QUANTILES) for part in parts]
    if found.get("baselines"):
        text += ["", f"{'rule that reads nothing':<36}{'right':>7}  95 % by prompt  pairs decided"]
        for rule, n in found["baselines"].items():
            interval = f"{100 * n['low']:.1f} to {100 * n['high']:.1f} %"
            text.append(f"  {rule:<34}{100 * n['accuracy']:>5.1f} %  {interval:<16}{n['num_pairs']:>13}")
    text += ["", "first record"]
    for name, words in found["first"].items():
        rest = len(words) - CHARACTERS_SHOWN
        text.append(f"  {name:<14}{words[:CHARACTERS_SHOWN]}" + (f" ... (+{rest} characters)" if rest > 0 else ""))
    for number, parts in enumerate(found.get("tokens", []), start=1):
        text += ["", f"record {number}"]
        text += [f"  {part} ({len(tokens)}): " + " ".join(map(repr, tokens)) for part, tokens in parts.items()]
    return "\n".join(map(printable, text))
