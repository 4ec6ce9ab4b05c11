"""Statistics of an update: summed over micro-batches, reduced over ranks, then averaged over steps.

Names that end in `_max` are maxima; all others are sums whose weights make them means over the minibatch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.distributed import global_max, global_sum

Totals = dict[str, Tensor]


def accumulate(totals: Totals, stats: dict[str, Tensor]) -> None:
    """Add the statistics of a micro-batch to `totals`."""
    for name, value in stats.items():
        before = totals.get(name)
        if before is None:
            totals[name] = value
        else:
            totals[name] = torch.maximum(before, value) if name.endswith("_max") else before + value


def reduce_over_ranks(totals: Totals) -> dict[str, float]:
    """Reduce statistics over ranks; every rank must pass the same names."""
    return {name: float((global_max if name.endswith("_max") else global_sum)(v)) for name, v in totals.items()}


def mean_over_steps(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average each statistic over the steps of an update, or take the maximum; empty for an update without steps."""
    return {
        name: max(values) if name.endswith("_max") else sum(values) / len(values)
        for name in (history[0] if history else ())
        for values in [[step[name] for step in history]]
    }
