"""Tables of texts for TensorBoard: escaped markdown, and the pairs on which a judge is most wrong."""

from collections.abc import Sequence
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
    return _largest((torch.sigmoid(verdict.margin_ab) - torch.sigmoid(-verdict.margin_ba)).abs().cpu())


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
    header = [
        "prompt",
        "chosen",
        "rejected",
        "characters",
        "label",
        "p(chosen)",
        "p, chosen first",
        "p, rejected first",
    ]
    probabilities = (verdict.win_prob, torch.sigmoid(verdict.margin_ab), torch.sigmoid(-verdict.margin_ba))
    lines = [
        [
            *(shortened(each) for each in (text.prompt, text.chosen, text.rejected)),
            f"{len(text.chosen)}, {len(text.rejected)}",
            f"{float(targets[row]):g}",
            *(f"{float(column[row]):.3f}" for column in probabilities),
        ]
        for row, text in zip(rows, texts, strict=True)
    ]
    return markdown_table(header, lines) if lines else "No such pair."
