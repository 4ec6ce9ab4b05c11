"""What a judge finds: the verdict made of both orders of a pair, who wins, and what a tie counts.

A comparison of which a judge is exactly undecided (log-odds of 0) is a tie, and a tie is half a win for each side. A
label of 1/2 is a tie of the annotators: there is no winner to be found, so accuracies leave such a pair out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

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
    Where one order alone was read (docs/spending.md), `one_order_logit` stands in for that average, and the margin that
    nobody read is NaN.
    """

    margin_ab: Tensor
    """[N] z(a, b): log-odds that a is better, with a shown first."""
    margin_ba: Tensor
    """[N] z(b, a): log-odds that b is better, with b shown first."""
    one_order_logit: Tensor | None = None
    """[N] estimate of the debiased log-odds of a pair that was read in one order; NaN where both orders were asked for.
    None where all pairs were."""

    def __post_init__(self) -> None:
        check_shape("margin_ba", self.margin_ba, tuple(self.margin_ab.shape))
        if self.one_order_logit is not None:
            check_shape("one_order_logit", self.one_order_logit, tuple(self.margin_ab.shape))

    def __len__(self) -> int:
        return self.margin_ab.shape[0]

    def select(self, rows: Tensor) -> "Verdict":
        """Take some of the pairs, by number or by a [N] mask."""
        return self._mapped(lambda column: column[rows])

    def to(self, device: torch.device | str) -> "Verdict":
        """Copy the verdict to a device."""
        return self._mapped(lambda column: column.to(device))

    def swapped(self, rows: Tensor) -> "Verdict":
        """Exchange a and b in some of the pairs, by a [N] mask."""
        ab, ba, one = self.margin_ab, self.margin_ba, self.one_order_logit
        one = None if one is None else torch.where(rows, -one, one)
        return Verdict(torch.where(rows, ba, ab), torch.where(rows, ab, ba), one)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Verdict":
        one = self.one_order_logit
        return Verdict(change(self.margin_ab), change(self.margin_ba), None if one is None else change(one))

    @property
    def both_orders(self) -> Tensor:
        """[N] True where both margins are known: alone there the orders can be compared."""
        return ~(self.margin_ab.isnan() | self.margin_ba.isnan())

    @property
    def one_order(self) -> Tensor:
        """[N] True where the verdict is an estimate from one order."""
        if self.one_order_logit is None:
            return torch.zeros_like(self.margin_ab, dtype=torch.bool)
        return ~self.one_order_logit.isnan()

    @property
    def judged(self) -> Tensor:
        """[N] False where a judgement failed; the other properties are NaN there."""
        return self.both_orders | self.one_order

    @property
    def readings(self) -> Tensor:
        """[M] every margin that was asked for: two of most pairs, one where one order was enough."""
        unread = self.one_order & torch.stack([self.margin_ab, self.margin_ba]).isnan()
        return torch.stack([self.margin_ab, self.margin_ba])[~unread]

    @property
    def win_logit(self) -> Tensor:
        """[N] debiased log-odds that a beats b: half the difference of the two margins."""
        both = (self.margin_ab - self.margin_ba) / 2
        return both if self.one_order_logit is None else torch.where(self.one_order, self.one_order_logit, both)

    @property
    def win_prob(self) -> Tensor:
        """[N] debiased probability that a beats b; p(a, b) + p(b, a) is exactly one."""
        # This form makes p(u > v) + p(v > u) 1 to the last bit: sigmoid itself is symmetric up to rounding only.
        logit = self.win_logit
        tail = torch.sigmoid(-logit.abs())
        return torch.where(logit > 0, 1 - tail, tail)

    @property
    def mean_prob(self) -> Tensor:
        """[N] mean of the probabilities of both orders: (p(a, b) + 1 - p(b, a)) / 2; `win_prob` of one order."""
        both = (torch.sigmoid(self.margin_ab) + 1 - torch.sigmoid(self.margin_ba)) / 2
        return both if self.one_order_logit is None else torch.where(self.one_order, self.win_prob, both)

    @property
    def position_bias(self) -> Tensor:
        """[N] log-odds that the first position gets for any response; they cancel in `win_logit`. NaN of one order."""
        return (self.margin_ab + self.margin_ba) / 2

    @property
    def order_gap(self) -> Tensor:
        """[N] |p(a, b) + p(b, a) - 1|: zero for a judge without position bias. NaN of one order."""
        return (torch.sigmoid(self.margin_ab) + torch.sigmoid(self.margin_ba) - 1).abs()

    @property
    def flipped(self) -> Tensor:
        """[N] True where swapping the order changes the winner; False of one order, which `both_orders` tells."""
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


def mean_margin(margins: Tensor) -> Tensor:
    """Average k verdicts on one reading in probability: [..., k] -> [...], the log-odds of mean(sigmoid(margins)).

    Computed in log space, where sure verdicts neither overflow nor round to 0. One verdict stays as it is, to the bit.
    """
    if margins.shape[-1] == 1:
        return margins[..., 0]
    return logsigmoid(margins).logsumexp(-1) - logsigmoid(-margins).logsumexp(-1)


@dataclass(frozen=True)
class Reasons:
    """Verdicts of N readings, each after k thoughts."""

    margins: Tensor
    """[N, k] margin after each thought."""
    tokens: Tensor
    """[N, k] tokens of each thought."""
    unfinished: Tensor
    """[N, k] bool, True where a thought was closed at its limit."""

    def select(self, rows: Sequence[int]) -> "Reasons":
        """Take some of the readings, by number."""
        return Reasons(self.margins[rows], self.tokens[rows], self.unfinished[rows])

    @staticmethod
    def parts() -> tuple[str, str, str]:
        """Return the names of the three parts, in their order."""
        return ("margins", "tokens", "unfinished")

    @classmethod
    def where(cls, condition: Tensor, first: "Reasons", second: "Reasons") -> "Reasons":
        """Take the readings of one where a condition [N] holds, and those of the other elsewhere."""
        pairs = ((getattr(first, name), getattr(second, name)) for name in cls.parts())
        return cls(*(torch.where(condition.to(one.device)[:, None], one, other) for one, other in pairs))
