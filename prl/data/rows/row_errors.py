"""Errors of raw rows: the field, the value found, the value expected and the fix."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

LABELS = ("preference", "label", "margin", "winner")
"""Columns with the probability that the first response is better; a row has at most one of them."""

_OTHER_NAMES = {
    "prompt": ("question", "instruction", "query", "input", "problem", "context"),
    "chosen": ("good", "better", "preferred", "winner", "positive", "best", "win"),
    "rejected": ("bad", "worse", "dispreferred", "loser", "negative", "worst", "lose"),
    "completion": ("answer", "output", "response", "solution", "target", "chosen"),
}
"""Names that other data sets give to a column, for a guess."""

_BAD_BYTE = re.compile("[\udc80-\udcff]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


# reason: (what was expected, what to do about it)
_ADVICE = {
    "invalid JSON": ("one JSON object", "Repair or remove the line."),
    "undecodable text": ("text in UTF-8", "Write the file again as UTF-8 or remove the row."),
    "key given twice": ("one value for a key", "Remove one of the two."),
    "wrong number of cells": (
        "one cell for each heading",
        "Put a text with the separator in it into quotes, or remove the row.",
    ),
    "cell without a heading": (
        "nothing there",
        "Give the column a heading, or put a text with the separator in it into quotes.",
    ),
    "unreadable value": ("a value that Python can hold", "Convert the column or take it out of the file."),
    "no value": ("a value", "Fill the cell or remove the row."),
    "wrong type": ("text", "Convert the column or map another one with `columns`."),
    "empty text": ("non-empty text", "Give it a response or remove the row."),
    "empty message list": ("at least one message", "Add the messages or remove the row."),
    "not a message": (
        "a message {'role': ..., 'content': ...} or {'from': ..., 'value': ...}",
        "Rename or add these two keys.",
    ),
    "not a transcript": (
        "a transcript, like the other response: turns that begin with '\\n\\nHuman:' or '\\n\\nAssistant:'",
        "Repair it or remove the row.",
    ),
    "assistant turn ends the prompt": ("a prompt to respond to", "Take the last turn off or remove the row."),
    "no prompt": ("a prompt and a last assistant message", "Add the turns that come before it or remove the row."),
    "no shared prompt": ("dialogues that begin with the same prompt", "Add a 'prompt' column or repair the dialogues."),
    "messages as text": (
        "text, or a list of messages as a list",
        "Write the file as .jsonl or .parquet, whose cells can hold lists. If just this text is meant, make it the "
        "content of a message.",
    ),
    "not one assistant message": ("one assistant message, alone or after the prompt", "Move or remove the others."),
    "chosen equals rejected": ("two different responses", "Remove the row: it does not say which is better."),
    "invalid preference": ("a number from 0 to 1", "Correct it, or leave it out where chosen is better for certain."),
    "invalid label": (
        "a number from 0 to 1, the probability that the first response is better",
        "Correct it, or leave another kind of label unread: columns: {label: null}.",
    ),
    "invalid margin": (
        "a finite number, the log-odds that the first response is better",
        "Correct it, or leave another kind of margin unread: columns: {margin: null}.",
    ),
    "ambiguous margin": (
        "a number above 0, the log-odds that chosen is better: 0 makes a tie, and less turns the pair round",
        "Where it is another margin, as the one that TRL adds to the loss, leave it unread: columns: {margin: null}. "
        "Where it is log-odds, swap the two responses and drop the sign; for 0 write a preference of 0.5.",
    ),
    "invalid weight": (
        "a finite number above 0",
        "Correct it, leave it out for a weight of 1, or leave the column unread: columns: {weight: null}.",
    ),
    "weight beyond float32": (
        "a number that float32 holds (1.5e-45 to 3.4e38; the pairs of a ranked list share it)",
        "Scale all weights alike: only their ratios count.",
    ),
    "unknown winner": ("a, b or tie, or model_a, model_b or tie (bothbad)", "Rename the value or remove the row."),
    "not a list": ("a list with one entry per completion", "Convert the column or remove the row."),
    "too many completions": (
        "fewer of them",
        "Each pair of them becomes a record: keep those that tell most, as the best and some others, or write the "
        "pairs that you want as rows with chosen and rejected.",
    ),
    "wrong number of entries": ("one entry per completion, at least two", "Repair the lists or remove the row."),
    "invalid rank": ("a finite number, 1 for the best", "Correct it or remove the row."),
    "invalid score": ("a finite number, the higher the better", "Correct it or remove the row."),
    "unknown annotation": (
        "a, b or tie, model_a, model_b or tie (bothbad), a number from 0 to 1, or null for none",
        "Rename the value or remove it.",
    ),
    "no annotations": (
        "at least one annotation",
        "Remove the row, or put in what an annotator said.",
    ),
    "annotated twice": (
        "one annotation of a pair by an annotator",
        "Remove one of the two rows; where they are of different annotators, name them in a column annotator.",
    ),
    "one name twice": (
        "names that differ by more than white space around them",
        "Rename one of the two annotators, or remove one annotation.",
    ),
    "weighted": (
        "no weights: every annotation counts once",
        "Leave the column unread: columns: {weight: null}.",
    ),
    "no annotator": (
        "the name of the annotator in every row, as other rows of this file have it",
        "Put it in, or leave the column unread: columns: {annotator: null}.",
    ),
    "ranked list": (
        "two responses",
        "Write each pair of the list as a row with response_a, response_b and winner.",
    ),
    "invalid id": ("ref:NUMBER or tied:NUMBER, as the subset Ties has it", "Repair the id or remove the row."),
    "mixed versions": (
        "rows of one version of the benchmark: lists of responses in every row (2), or in none (1)",
        "Put the two into files of their own.",
    ),
    "refused by the chat template": (
        "turns that the model's chat template takes",
        "Repair or remove the row, or choose a model whose template takes such turns.",
    ),
    "same text ranked twice": ("one rank for one text", "Remove the row or one of the completions."),
}


class DataError(ValueError):
    """Data that cannot be used; the message says where, why and what to do."""


class RowError(ValueError):
    """The error of one raw row: the field, the value found, the value expected and the fix.

    Attributes:
        reason: short category, the key under which a report counts skipped rows.
        field: column, with the position inside it (`prompt[2].role`); None if the row as a whole could not be read.
    """

    def __init__(self, reason: str, field: str | None, found: str, *, expected: str = "", fix: str = "") -> None:
        self.reason, self.field = reason, field
        usual_expected, usual_fix = _ADVICE.get(reason, ("", ""))
        where = "" if field is None else f"field {field!r}: "
        said = f"{where}found {found} ({reason}); expected {expected or usual_expected}. {fix or usual_fix}"
        super().__init__(printable(said))


RawRow = Mapping[str, Any] | RowError
"""The cells of a row by column, or the reason why it cannot be read."""


def bad_byte(text: str) -> str | None:
    """Describe the first byte that is no UTF-8 in text read with `surrogateescape`; None without one."""
    if (found := _BAD_BYTE.search(text)) is None:
        return None
    position = len(text[: found.start()].encode(errors="surrogatepass"))
    return f"byte 0x{ord(found[0]) & 0xFF:02x} at position {position}"


def printable(line: str) -> str:
    """Escape control characters and lone surrogates in a line, as Python's repr does.

    Names in a file can then not steer the terminal, and every line can be written.
    """
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def shown(value: object) -> str:
    """Format a value for an error message, shortened."""
    return _short.repr(value)


def missing_column(
    name: str, found: Sequence[str], columns: Sequence[str], shapes: Mapping[tuple[str, ...], str]
) -> RowError:
    """Build the error of a missing column: the columns there are, the closest shape, a guess at each missing name."""
    texts = {shape: [column for column in shape if column not in LABELS] for shape in shapes}  # labels fit any shape
    closest = max(shapes, key=lambda shape: sum(column in found for column in texts[shape]) / len(texts[shape]))
    lacking = [column for column in texts[closest] if column not in found]
    lacking = lacking if name in lacking else [name]
    free, guesses = sorted(set(found) - set(columns)), []
    for each in lacking:
        usual = [column for column in free if column.lower() in _OTHER_NAMES.get(each, ())]
        [guess] = (get_close_matches(each, free, n=1) or usual or ["<column in the file>"])[:1]
        free = [column for column in free if column != guess]
        guesses.append(f"{each}: {guess}")
    what = "Add the column or map it" if len(lacking) == 1 else "Add the columns or map them"
    listed = "columns " + (", ".join(map(repr, found)) or "none")
    fix = f"{what}: columns: {{{', '.join(guesses)}}}."
    return RowError("missing column", name, listed, expected=shapes[closest], fix=fix)


def both_given(first: Sequence[str], second: Sequence[str], what: str) -> RowError:
    """Build the error of a row that can be read in two ways."""
    found = " and ".join(", ".join(map(repr, names)) for names in (first, second))
    [unread] = [name for name in second if name not in first][-1:]
    fix = f"Remove one, or leave one unread: columns: {{{unread}: null}}."
    return RowError(f"two {what}s at once", unread, found, expected=f"one {what}", fix=fix)
