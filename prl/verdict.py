"""What a judge finds: the verdict made of both orders of a pair, who wins, and what a tie counts.

A comparison of which a judge is exactly undecided (log-odds of 0) is a tie, and a tie is half a win for each side. A
label of 1/2 is a tie of the annotators: there is no winner to be found, so accuracies leave such a pair out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prl.shapes import check_shape


def wins(logit: Tensor) -> Tensor:
    """Score 1 for a win, 0 for a loss, 1/2 for a tie, NaN where there is no comparison: [N] -> [N].

    Args:
        logit: [N] log-odds of a win, or any number with its sign.
    """
    return ((logit.sign() + 1) / 2).masked_fill(logit.isnan(), torch.nan)  # the sign of NaN is 0


def has_winner(target: Tensor) -> Tensor:
    """Tell labels that name a winner from ties, which are labels of 1/2: [N] -> [N] bool."""
    return target != 0.5


def agreement(logit: Tensor, target: Tensor) -> Tensor:
    """Score 1 where log-odds name the winner of the label, 0 where they name the other, 1/2 for a tie: [N] -> [N].

    Args:
        logit: [N] log-odds that the first response is better.
        target: [N] probability that it is, of the label. Where it is 1/2 there is no winner (`has_winner`).
    """
    return wins(torch.where(target > 0.5, logit, -logit))


@dataclass(frozen=True)
class Verdict:
    """Margins of N pairs (a, b) in both orders. A margin is the log-odds that the response shown first is better.

    Debiasing averages the log-odds of both orders, where an additive position bias cancels exactly (docs/judge.md).
    """

    margin_ab: Tensor
    """[N] z(a, b): log-odds that a is better, with a shown first."""
    margin_ba: Tensor
    """[N] z(b, a): log-odds that b is better, with b shown first."""

    def __post_init__(self) -> None:
        check_shape("margin_ba", self.margin_ba, tuple(self.margin_ab.shape))

    def __len__(self) -> int:
        return self.margin_ab.shape[0]

    def select(self, rows: Tensor) -> "Verdict":
        """Take some of the pairs, by number or by a [N] mask."""
        return Verdict(self.margin_ab[rows], self.margin_ba[rows])

    @property
    def judged(self) -> Tensor:
        """[N] False where a judgement failed; the other properties are NaN there."""
        return ~(self.margin_ab.isnan() | self.margin_ba.isnan())

    @property
    def win_logit(self) -> Tensor:
        """[N] debiased log-odds that a beats b: half the difference of the two margins."""
        return (self.margin_ab - self.margin_ba) / 2

    @property
    def win_prob(self) -> Tensor:
        """[N] debiased probability that a beats b; p(a, b) + p(b, a) is exactly one."""
        # This form makes p(u > v) + p(v > u) 1 to the last bit: sigmoid itself is symmetric up to rounding only.
        logit = self.win_logit
        tail = torch.sigmoid(-logit.abs())
        return torch.where(logit > 0, 1 - tail, tail)

    @property
    def mean_prob(self) -> Tensor:
        """[N] mean of the probabilities of both orders: (p(a, b) + 1 - p(b, a)) / 2."""
        return (torch.sigmoid(self.margin_ab) + 1 - torch.sigmoid(self.margin_ba)) / 2

    @property
    def position_bias(self) -> Tensor:
        """[N] log-odds that the first position gets for any response; they cancel in `win_logit`."""
        return (self.margin_ab + self.margin_ba) / 2

    @property
    def order_gap(self) -> Tensor:
        """[N] |p(a, b) + p(b, a) - 1|: zero for a judge without position bias."""
        return (torch.sigmoid(self.margin_ab) + torch.sigmoid(self.margin_ba) - 1).abs()

    @property
    def flipped(self) -> Tensor:
        """[N] True where swapping the order changes the winner."""
        return self.margin_ab.sign() * self.margin_ba.sign() > 0


def mean_per_row(values: Tensor, row_of: Tensor, num_rows: int) -> Tensor:
    """Average the values of each row without its NaN: [N] -> [B]; NaN where a row has no other values.

    Args:
        values: [N].
        row_of: [N] row of each value.
        num_rows: B.
    """
    known = ~values.isnan()
    totals = values.new_zeros(num_rows).index_add(0, row_of[known], values[known])
    counts = row_of[known].bincount(minlength=num_rows)
    return torch.where(counts > 0, totals / counts.clamp(min=1), torch.nan)
