"""Figures of a judge on labelled pairs: quick numbers for every validation, and the whole report (docs/judge.md)."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prl.evaluation.bootstrap import bootstrap_mean
from prl.evaluation.judge.calibration import calibration_error, fit_temperature
from prl.evaluation.judge.reasons import reasons_report
from prl.verdict import Reasons, Verdict, has_winner, wins

LENGTH_MATCHED = 0.1
"""Two responses count as equally long when their lengths differ by at most this share of the longer one."""
MAX_SOURCES = 20
"""Most sources with a number of their own at every validation; the report has all."""


def judge_metrics(verdict: Verdict, targets: Tensor) -> dict[str, float]:
    """Compute accuracy, calibration and order effects of verdicts on pairs (chosen, rejected).

    Args:
        verdict: N pairs with chosen as `a` and rejected as `b`.
        targets: [N] probability that chosen is better.

    Returns:
        accuracy (both orders averaged; a tie of probabilities counts one half), accuracy_chosen_first and
        accuracy_rejected_first (each order alone; "chosen" is the better response by its label), nll (nats, debiased
        probability), brier, ece (15 bins), flip_rate, order_gap, first_position_rate, margin.
        Pairs whose target is 1/2 have no winner and stay out of the accuracies and ece.
    """
    verdict, targets = better_first(verdict, targets)
    prob, targets = verdict.win_prob.double().cpu(), targets.double().cpu()
    first, second = verdict.margin_ab.double().cpu(), verdict.margin_ba.double().cpu()
    win = verdict.win_logit.double().cpu()
    decided = has_winner(targets)

    def accuracy(logit: Tensor) -> float:
        return float(wins(logit[decided]).mean()) if decided.any() else float("nan")

    return {
        "accuracy": accuracy(win),
        "accuracy_chosen_first": accuracy(first),
        "accuracy_rejected_first": accuracy(-second),
        "nll": float(negative_log_likelihood(win, targets).mean()),
        "brier": float((prob - targets).square().mean()),
        "ece": calibration_error(prob[decided], targets[decided]),
        "flip_rate": float(verdict.flipped.float().mean()),
        "order_gap": float(verdict.order_gap.float().mean()),
        "first_position_rate": float(wins(torch.cat([first, second])).mean()),
        "margin": float(((2 * targets - 1) * win).mean()),
    }


def better_first(verdict: Verdict, targets: Tensor) -> tuple[Verdict, Tensor]:
    """Order verdicts and labels so that `a` is the response that the label calls better.

    A file may put the better response on either side; no reported figure depends on the side.
    """
    turn = targets < 0.5
    return verdict.swapped(turn), torch.where(turn, 1 - targets, targets)


def negative_log_likelihood(logit: Tensor, targets: Tensor) -> Tensor:
    """Compute [N] nats, in a form in which large log-odds neither overflow nor round to zero."""
    return -(targets * logsigmoid(logit) + (1 - targets) * logsigmoid(-logit))


@dataclass(frozen=True)
class JudgedPairs:
    """N labelled pairs (a, b) with their verdicts: the input of a report. Raises ValueError for unusable pairs."""

    verdict: Verdict
    targets: Tensor
    """[N] probability that a is better; 1/2 is a tie."""
    prompts: Sequence[Hashable]
    """N keys of prompts: pairs of one prompt are not independent."""
    lengths: Tensor
    """[N, 2] lengths of a and b, in any unit."""
    sources: Sequence[str | None] = ()
    """N names of sources; empty without sources."""
    reasons: tuple[Reasons, Reasons] | None = None
    """What each thought led to, for the readings (a, b) and (b, a); None of a judge without thoughts."""
    temperature: float = 1.0
    """Divides the margins of a judge that reasons, once they are averaged."""

    def __post_init__(self) -> None:
        number = len(self.verdict)
        if number == 0:
            raise ValueError("no pairs to report on")
        sizes = (len(self.targets), len(self.prompts), len(self.lengths), len(self.sources) or number)
        if set(sizes) != {number}:
            raise ValueError(f"{number} verdicts, but (targets, prompts, lengths, sources) are {sizes}")
        margins = self.verdict.readings
        if broken := int((~margins.isfinite()).sum()):
            raise ValueError(
                f"{broken} of {len(margins)} margins are not finite numbers; the judge's weights are broken"
            )

    def better_first(self) -> "JudgedPairs":
        """Order the pairs so that `a` is the response that the label calls better."""
        turn = self.targets < 0.5
        verdict, targets = better_first(self.verdict, self.targets)
        reasons = self.reasons
        if reasons is not None:
            reasons = (Reasons.where(turn, reasons[1], reasons[0]), Reasons.where(turn, reasons[0], reasons[1]))
        lengths = torch.where(turn[:, None], self.lengths.flip(1), self.lengths)
        return replace(self, verdict=verdict, targets=targets, lengths=lengths, reasons=reasons)


def judge_report(pairs: JudgedPairs, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Compute every figure that docs/judge.md explains, as JSON values.

    A measured mean is {mean, low, high, num}, with its 95 % bootstrap interval over prompts and the number of pairs
    behind it; None where there is no such pair. Swapping the two responses of every pair changes nothing.
    """
    pairs = pairs.better_first()
    sampling: dict[str, Any] = {"resamples": resamples, "seed": seed}
    win, targets = pairs.verdict.win_logit.double().cpu(), pairs.targets.double().cpu()
    decided = has_winner(targets)
    # One parameter, fitted on the pairs on which it is measured: with a hundred pairs the optimism is small.
    temperature = fit_temperature(win, targets, list(pairs.prompts), seed=seed)
    report: dict[str, Any] = {
        "num_pairs": len(win),
        "num_prompts": len(set(pairs.prompts)),
        "num_ties": int((~decided).sum()),
        "temperature": {"mean": temperature.mean, "low": temperature.low, "high": temperature.high, "num": len(win)},
    }
    for name, (values, where) in _columns(pairs, temperature.mean).items():
        report[name] = estimate(values, where, pairs.prompts, **sampling)
    for name, logit in (("ece", win), ("ece_after_temperature", win / temperature.mean)):
        chosen = (logit.sigmoid()[decided], targets[decided])
        report[name] = calibration_error(*chosen) if decided.any() else None
    right = wins(win)
    report["sources"] = {
        source: estimate(
            right, decided & torch.tensor([each == source for each in pairs.sources]), pairs.prompts, **sampling
        )
        for source in sorted({source for source in pairs.sources if source is not None})
    }
    if pairs.reasons is not None:
        margins, tokens, unfinished = (
            torch.stack([getattr(each, name) for each in pairs.reasons], 1) for name in Reasons.parts()
        )
        measured = partial(estimate, prompts=pairs.prompts, **sampling)
        report["reasons"] = reasons_report(margins, tokens, unfinished, targets, pairs.temperature, measured)
    return report


def slice_metrics(pairs: JudgedPairs) -> dict[str, float]:
    """Compute quick numbers by slices of length and source for every validation.

    Returns:
        accuracy_len_matched, accuracy_shorter_wins, longer_rate, baseline_longer, and accuracy_source_<name> for the
        MAX_SOURCES most frequent sources. A name without a pair to count is left out.
    """
    pairs = pairs.better_first()
    columns = _columns(pairs, 1.0)
    names = ("accuracy_len_matched", "accuracy_shorter_wins", "longer_rate", "baseline_longer")
    slices = {name: columns[name.replace("_len_", "_length_")] for name in names}
    right, decided = columns["accuracy"]
    for source, _ in Counter(source for source in pairs.sources if source is not None).most_common(MAX_SOURCES):
        slices[f"accuracy_source_{source}"] = right, decided & torch.tensor([each == source for each in pairs.sources])
    return {name: float(values[where].mean()) for name, (values, where) in slices.items() if where.any()}


def _columns(pairs: JudgedPairs, temperature: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute name -> (one number per pair [N], where it counts [N] bool). The better response is `a` in every pair."""
    verdict = pairs.verdict
    win, first, second = (z.double().cpu() for z in (verdict.win_logit, verdict.margin_ab, verdict.margin_ba))
    targets, (better, worse) = pairs.targets.double().cpu(), pairs.lengths.double().cpu().T
    everywhere, decided = torch.ones_like(targets, dtype=torch.bool), has_winner(targets)
    matched = (better - worse).abs() <= LENGTH_MATCHED * torch.maximum(better, worse)
    cooled = win / temperature
    both = verdict.both_orders.cpu()  # a pair that was read in one order says nothing of the other
    return {
        "accuracy": (wins(win), decided),
        "accuracy_better_first": (wins(first), decided & ~first.isnan()),
        "accuracy_better_second": (wins(-second), decided & ~second.isnan()),
        "accuracy_length_matched": (wins(win), decided & matched),
        "accuracy_shorter_wins": (wins(win), decided & (better < worse)),
        "baseline_longer": (wins(better - worse), decided),
        "longer_rate": (wins(win * (better - worse)), better != worse),
        "nll": (negative_log_likelihood(win, targets), everywhere),
        "nll_after_temperature": (negative_log_likelihood(cooled, targets), everywhere),
        "brier": ((win.sigmoid() - targets).square(), everywhere),
        "brier_after_temperature": ((cooled.sigmoid() - targets).square(), everywhere),
        "order_gap": (verdict.order_gap.double().cpu(), both),
        "flip_rate": (verdict.flipped.double().cpu(), both),
        "first_position_rate": (torch.stack([wins(first), wins(second)]).nanmean(0), everywhere),
        "margin": ((2 * targets - 1) * win, everywhere),
    }


def estimate(
    values: Tensor, where: Tensor, prompts: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any] | None:
    """Average the values that count, with the interval over prompts and their number; None without any."""
    rows = where.nonzero()[:, 0].tolist()
    if not rows:
        return None
    interval = bootstrap_mean(values[where].tolist(), [prompts[row] for row in rows], resamples=resamples, seed=seed)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "num": len(rows)}
