"""How strong preferences are, by the votes of several judges: what `prl strength` writes (2401.06080, section 2)."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prl.data import PreferencePair
from prl.judge.loading import load_judge
from prl.rewards.scalar import ScalarReward

COLUMNS = ("strength_mean", "strength_std")
"""Columns that are written beside a pair."""
BATCH = 256
"""Pairs put to a judge at once, between two lines of progress."""


class Vote(NamedTuple):
    """What one judge says of all pairs."""

    margins: Tensor
    """[N] float64 r(chosen) - r(rejected) of a reward model, log-odds that chosen is better of another judge; NaN where
    it failed."""
    mean: float | None
    """Mean of the rewards of a reward model over chosen and rejected responses; None of another judge."""
    std: float | None
    """Their standard deviation, over N - 1."""


def vote(folder: str | Path, pairs: Sequence[PreferencePair], dtype: str = "float32") -> Vote:
    """Put all pairs to the judge in a folder, on the first GPU where there is one.

    Raises:
        ValueError: when there is no judge.
    """
    judge: Any = load_judge(folder, dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    margins, rewards = [], []
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        prompts = [pair.prompt for pair in some]
        sides = [[pair.chosen for pair in some], [pair.rejected for pair in some]]
        if isinstance(judge, ScalarReward):
            chosen, rejected = (judge.rewards(prompts, texts).double().cpu() for texts in sides)
            rewards += [chosen, rejected]
            margins.append(chosen - rejected)
        else:
            margins.append(judge.compare(prompts, *sides).win_logit.double().cpu())
        sys.stderr.write(f"\r{folder}: {start + len(some)} of {len(pairs)} pairs")
    sys.stderr.write("\n")
    if not rewards:
        return Vote(torch.cat(margins), None, None)
    of_all = torch.cat(rewards)
    return Vote(torch.cat(margins), float(of_all.mean()), float(of_all.std()))


def strengths(votes: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation (over k) of k votes on each pair: [k, N] -> [N] and [N]."""
    return votes.mean(0), votes.std(0, correction=0)


def weakest(mean: Tensor, preference: Tensor, share: float) -> Tensor:
    """Find the pairs whose label the votes support least: [N] bool.

    Args:
        mean: [N] mean votes that chosen is better; NaN where one failed.
        preference: [N] label, the probability that chosen is better; a tie supports nothing, and is not counted.
        share: how many of the labelled pairs, rounded down.
    """
    counts = (preference != 0.5) & ~mean.isnan()
    support = torch.where(preference > 0.5, mean, -mean).masked_fill(~counts, math.inf)
    found = torch.zeros(len(mean), dtype=torch.bool)
    found[support.argsort(stable=True)[: int(share * int(counts.sum()))]] = True
    return found


def strength_row(pair: PreferencePair, number: int, mean: float, std: float, preference: float) -> dict[str, Any]:
    """Write a pair as an ordinary preference row, with the strength beside it.

    Args:
        pair: the pair.
        number: its number in the data.
        mean: of the votes.
        std: of the votes.
        preference: label to write.

    Raises:
        ValueError: for a row that has such a column already.
    """
    if taken := [name for name in COLUMNS if name in pair.extra]:
        raise ValueError(
            f"row {number + 1} has a column {taken[0]!r} already, which is to be written; leave it out of the data"
        )
    # A column of other meaning that preference data reads as a label would label this pair.
    kept = {name: value for name, value in pair.extra.items() if name not in PreferencePair.columns}
    labels = {"preference": preference} if preference != 1 else {}
    weight = {"weight": pair.weight} if pair.weight != 1 else {}
    own = {"prompt": list(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
    return {**kept, **own, **labels, **weight, **dict(zip(COLUMNS, (mean, std), strict=True))}
