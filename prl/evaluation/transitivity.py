"""Cycles among three responses: what a pairwise judge can get wrong and a scalar one cannot."""

from itertools import combinations

import torch
from torch import Tensor


def cyclic_triples(win_logit: Tensor) -> tuple[int, int]:
    """How many of the triples of k responses go round in a circle (a beats b beats c beats a), and how many there are.

    A draw is no win, so a triple with one is not cyclic.

    Args:
        win_logit: [k, k] debiased log-odds that the row's response beats the column's.
    """
    beats = (win_logit > 0).long()
    cycles = int(torch.linalg.matrix_power(beats.double(), 3).trace()) // 3  # each cycle is found from its three ends
    return cycles, len(list(combinations(range(len(beats)), 3)))
