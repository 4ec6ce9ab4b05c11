"""Tables of texts for TensorBoard: escaped markdown, and the pairs on which a judge is most wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prl.verdict import Verdict

SHOWN_CHARACTERS = 300
"""Characters of a text that a cell shows."""
SHOWN_PAIRS = 10
"""Rows of a table of pairs."""


@dataclass(frozen=True)
class PairText:
    """Texts of a pair that a table shows beside its numbers."""

    prompt: str
    chosen: str
    rejected: str


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table for TensorBoard's text tab; cell text cannot break out of its cell."""

    def cell(text: str) -> str:
        clean = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("`", "&#96;")
        return clean.replace("\n", "<br>") or "(empty)"

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows])


def under_numbers(text: str, numbers: Mapping[str, str]) -> str:
    """Put numbers above a text, in its cell: TensorBoard makes a column of numbers beside long texts a letter wide."""
    return ", ".join(f"{name} {value}" for name, value in numbers.items()) + f"\n{text}"


def spread(values: Sequence[float], count: int) -> list[int]:
    """Choose `count` rows evenly from the largest value to the smallest, both included; NaN is never chosen.

    All rows with a value come in this order where there are fewer.
    """
    order = sorted((row for row, value in enumerate(values) if value == value), key=lambda row: -values[row])
    if len(order) <= count or count < 2:
        return order[:count]
    return [order[round(n * (len(order) - 1) / (count - 1))] for n in range(count)]


def shortened(text: str) -> str:
    """Cut a text to its beginning, and say how much is left out."""
    rest = len(text) - SHOWN_CHARACTERS
    return text if rest <= 0 else f"{text[:SHOWN_CHARACTERS]} … (+{rest} characters)"


def most_wrong(verdict: Verdict, targets: Tensor) -> list[int]:
    """Find rows in which the judge prefers the response labelled worse, the most confident first."""
    return _largest((1 - 2 * targets.cpu()) * verdict.win_logit.cpu())


def most_order_dependent(verdict: Verdict) -> list[int]:
    """Find rows whose probability depends on the order of the responses, the largest order gap first."""
    # The order gap, in a form that is exactly zero for a judge without position bias.
    gap = (torch.sigmoid(verdict.margin_ab) - torch.sigmoid(-verdict.margin_ba)).abs()
    return _largest(gap.nan_to_num().cpu())  # NaN where one order was read


def _largest(values: Tensor) -> list[int]:
    order = torch.argsort(values, descending=True, stable=True)[:SHOWN_PAIRS]
    return [row for row in order.tolist() if values[row] > 0]


def pair_table(rows: Sequence[int], texts: Sequence[PairText], verdict: Verdict, targets: Tensor) -> str:
    """Format pairs with their texts, the label, and the probability of chosen: debiased, and in each order.

    Args:
        rows: indices of the pairs to show.
        texts: texts of each of `rows`.
        verdict: N pairs with chosen as `a`.
        targets: [N] probability of the label that chosen is better.
    """
    probabilities = {
        "p(chosen)": verdict.win_prob,
        "chosen first": torch.sigmoid(verdict.margin_ab),
        "rejected first": torch.sigmoid(-verdict.margin_ba),
    }
    lines = []
    for row, text in zip(rows, texts, strict=True):
        numbers = {"label": f"{float(targets[row]):g}"}
        numbers |= {name: f"{float(column[row]):.3f}" for name, column in probabilities.items()}
        numbers["characters"] = f"{len(text.chosen)} and {len(text.rejected)}"
        prompt, chosen, rejected = (shortened(each) for each in (text.prompt, text.chosen, text.rejected))
        lines.append([under_numbers(prompt, numbers), chosen, rejected])
    return markdown_table(["prompt", "chosen", "rejected"], lines) if lines else "No such pair."
