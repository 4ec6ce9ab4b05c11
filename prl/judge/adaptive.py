"""The second order of a comparison only where the first one is near, by a threshold fitted for a stated error."""

import hashlib
import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prl.judge.base import PairwiseJudge, Reading, check_as_many
from prl.judge.wrapper import JudgeWrapper
from prl.types import Conversation
from prl.verdict import Verdict

STEPS = 200
"""Thresholds that `fit_threshold` tries: each saves another 1 / STEPS of the second orders."""


class AdaptiveOrder(JudgeWrapper):
    """Reads the second order of a comparison only where the first one is near.

    With z the log-odds of the first order, the second is read where |z - offset| < threshold. Elsewhere the debiased
    log-odds are estimated as z - offset, with the sign of the order that was read. `prl judge --adaptive-error` fits
    both numbers (`fit_threshold`), for the judge with its temperature.

    Which response is shown first depends on a hash of the prompt and the two texts, in which they are sorted: who wrote
    a response, and on which side it stands, changes neither the readings nor the verdict. Equal responses are one
    reading and exactly 1/2.

    Args:
        judge: the judge that reads.
        threshold: distance from the offset, log-odds, below which both orders are read; 0 reads one order everywhere.
        offset: log-odds that the first position gets on average.

    Raises:
        ValueError: for a negative threshold, an offset that is not finite, or a judge whose second order costs nothing.
    """

    reads_both_orders = False

    def __init__(self, judge: PairwiseJudge, threshold: float, offset: float = 0.0) -> None:
        super().__init__(judge)
        name = type(judge).__name__
        if not threshold >= 0:
            raise ValueError(f"AdaptiveOrder.threshold is {threshold}; expected 0 or more")
        if not math.isfinite(offset):
            raise ValueError(f"AdaptiveOrder.offset is {offset}; expected a finite number")
        if judge.antisymmetric:
            raise ValueError(
                f"AdaptiveOrder.judge is {name}, which reads each response by itself, so that the second order costs "
                f"nothing; use {name} without AdaptiveOrder"
            )
        if not judge.reads_both_orders:
            raise ValueError(f"AdaptiveOrder.judge is {name}, which chooses the orders itself; use one of the two")
        self.threshold, self.offset = threshold, offset

    @torch.no_grad()
    def compare(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Judge every pair in one order, and the near ones in both.

        Args:
            prompts: N conversations as messages.
            a: N responses.
            b: N responses to compare them with.

        Raises:
            ValueError: when the three lists differ in length.
        """
        check_as_many(prompts, a, b)
        self.expect(prompts, b)
        rows: list[Reading] = [(json.dumps(prompt), u, v) for prompt, u, v in zip(prompts, a, b, strict=True)]
        orders = [row if a_is_first(*row) else (row[0], row[2], row[1]) for row in rows]
        first = self.judge.read(orders)
        equal = [u == v for _, u, v in orders]
        near = ((first - self.offset).abs() < self.threshold).tolist()
        asked = [n for n, is_near in enumerate(near) if is_near and not equal[n]]
        second = first.new_full(first.shape, torch.nan)
        places = torch.tensor(asked, dtype=torch.long, device=first.device)
        if asked:
            second[places] = self.judge.read([_swapped(orders[n]) for n in asked])
        same = torch.tensor(equal, dtype=torch.bool, device=first.device)
        second = torch.where(same, first, second)  # which are one reading
        alone = ~same & ~first.isnan()
        alone[places] = False
        verdict = Verdict(first, second, torch.where(alone, first - self.offset, torch.nan))
        turned = [order[1] != row[1] for order, row in zip(orders, rows, strict=True)]
        return verdict.swapped(torch.tensor(turned, dtype=torch.bool, device=first.device))


def a_is_first(prompt: str, a: str, b: str) -> bool:
    """Choose the response that is shown first, by a hash of the contents that does not change when a and b swap."""
    low, high = sorted((a, b))
    digest = hashlib.sha256(json.dumps([prompt, low, high]).encode()).digest()
    return (a == low) == bool(digest[0] & 1)


def _swapped(reading: Reading) -> Reading:
    prompt, first, second = reading
    return prompt, second, first


@dataclass(frozen=True)
class AdaptiveSettings:
    """Settings of `AdaptiveOrder` for a stated error, and what they do on the calibration pairs."""

    threshold: float
    """Distance from the offset below which both orders are read, log-odds."""
    offset: float
    """Mean log-odds of the first position."""
    error: float
    """Stated error: the expected |p - p of both orders| of a comparison."""
    found_error: float
    """The same on the calibration pairs, each with the offset of other prompts."""
    second_order_share: float
    """Share of the calibration pairs that are read in both orders."""
    num_pairs: int
    num_prompts: int


def fit_threshold(
    verdict: Verdict, error: float, prompts: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> AdaptiveSettings:
    """Find the smallest threshold whose expected error is at most `error`.

    The error of a comparison is |p - p of both orders|, p its win probability; it is 0 where both orders are read. Each
    calibration pair is tried with either response first. The offset of a prompt's pairs is fitted on other prompts. A
    threshold is accepted where, with L_i the mean error over the pairs of prompt i, prod_i (1 + error - L_i) is at
    least 1 / (1 - confidence): if the expected error were larger than `error`, the product's expectation would be at
    most 1, so this has at most the probability 1 - confidence (Markov's inequality; the betting bound of 2010.09686
    with a bet of 1). Thresholds are tried from the largest down to the first that fails, which keeps the confidence,
    since a smaller one never has a smaller error (2101.02703, theorem 1).

    Args:
        verdict: N calibration pairs in both orders; pairs that failed and pairs of equal responses are left out.
        error: largest expected error, in (0, 1).
        prompts: N keys of prompts, whose pairs are not independent; None takes each pair by itself.
        confidence: probability with which the bound holds.

    Raises:
        ValueError: for an error or confidence outside (0, 1), pairs that were read in one order, or too few prompts for
            the confidence.
    """
    for name, value in (("error", error), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; expected a number between 0 and 1")
    if bool(verdict.one_order.any()):
        raise ValueError("calibration pairs have to be read in both orders; use the judge without AdaptiveOrder")
    counted = verdict.both_orders & (verdict.margin_ab != verdict.margin_ba)
    keys = list(range(len(verdict))) if prompts is None else list(prompts)
    index: dict[Hashable, int] = {}
    group = torch.tensor([index.setdefault(keys[n], len(index)) for n in counted.nonzero()[:, 0].tolist()])
    needed = max(2, math.ceil(-math.log(1 - confidence) / math.log1p(error)))
    if len(index) < needed:
        raise ValueError(
            f"{len(index)} prompts with two different responses cannot show an error of {error} with confidence "
            f"{confidence}; expected at least {needed}: give more calibration pairs, or allow a larger error"
        )
    both = verdict.select(counted).to("cpu")
    distance, loss = _one_order(both, group)
    accepted = _smallest(distance, loss, group, error, confidence)
    single = distance >= accepted
    return AdaptiveSettings(
        threshold=accepted,
        offset=float(both.position_bias.double().mean()),
        error=error,
        found_error=float((loss * single).mean()),
        second_order_share=1 - float(single.double().mean()),
        num_pairs=len(both),
        num_prompts=len(index),
    )


def _one_order(verdict: Verdict, group: Tensor) -> tuple[Tensor, Tensor]:
    """Compute |z - offset| of either order, and the error of reading it alone: [2, N] each.

    The offset of the pairs of one half of the prompts is that of the other half.
    """
    bias, half = verdict.position_bias.double(), group % 2
    offset = torch.stack([bias[half == 1].mean(), bias[half == 0].mean()])[half]
    estimates = torch.stack([verdict.margin_ab.double() - offset, offset - verdict.margin_ba.double()])
    exact = torch.sigmoid((verdict.margin_ab.double() - verdict.margin_ba.double()) / 2)
    return estimates.abs(), (estimates.sigmoid() - exact).abs()


def _smallest(distance: Tensor, loss: Tensor, group: Tensor, error: float, confidence: float) -> float:
    """Find the smallest threshold that is accepted, from the largest down; infinite where none is.

    Args:
        distance: [2, N] |z - offset| of either order.
        loss: [2, N] error of reading that order alone.
        group: [N] number of each pair's prompt.
        error: largest expected error.
        confidence: probability with which the bound holds.
    """
    order = distance.flatten().sort(descending=True).values
    number = group.bincount()
    accepted = math.inf
    for step in range(STEPS + 1):
        # A step has a threshold up to which another 1 / STEPS of the readings are far enough to stand alone.
        threshold = float(order[len(order) * step // STEPS - 1]) if step else math.inf
        alone = (loss * (distance >= threshold)).mean(0)
        of_prompts = torch.zeros(len(number), dtype=torch.float64).index_add(0, group, alone) / number
        if float((error - of_prompts).log1p().sum()) < -math.log(1 - confidence):
            break
        accepted = threshold
    return accepted
