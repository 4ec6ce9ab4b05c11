"""A contrastive term on hidden states beside any objective of a reward model (Secrets of RLHF II)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from prl.objectives.reward.base import PairBatch, RewardObjective, WrappedObjective
from prl.objectives.reward.bradley_terry import BradleyTerry

Of = Literal["responses", "differences"]


def info_nce(views: Tensor, temperature: float) -> Tensor:
    """Compute -log of the softmax, over all rows of the second view, of each row's similarity to itself: [N].

    Args:
        views: [2, N, D] states of the same N rows in two passes.
        temperature: divides their cosines.
    """
    one, other = normalize(views.float(), dim=-1)
    return cross_entropy(one @ other.T / temperature, torch.arange(len(one), device=one.device), reduction="none")


class Contrastive(WrappedObjective):
    """L_RM + beta L_CL, SimCSE on what a reward model makes of responses (Secrets of RLHF II, 2401.06080, section 3).

    Each row is read twice with dropout: its two states are to be more alike than the states of different rows, by
    L_CL = -log exp(cos(h_i, h_i') / T) / sum_j exp(cos(h_i, h_j') / T). h is the last hidden state at the end of a
    response; rows are the 2 B responses of a batch, or the B differences h_w - h_l. The labels play no part in it. With
    beta = 0 it is L_RM to the last bit.

    The other rows are those of one batch on one process: with accumulated gradients those of each batch alone. Two
    equal texts in a batch push each other away. Rewards are read without dropout, as everywhere in this library, so
    each row is read three times. Hidden states are dropped where the architecture has a dropout; in Llama and its kind
    that is the attention.

    That SimCSE works on single responses and on differences, beside a loss L_RM, was read in summaries of the authors'
    later paper on it; the form of L_CL is from memory. Temperature and dropout are those of SimCSE; beta is this
    library's choice. SwAV, their other form, is not here.

    Args:
        objective: L_RM, another objective of reward models; `BradleyTerry` with its defaults when null.
        beta: weight of the contrastive term.
        of: what is compared: responses, or differences of the two responses of a pair.
        temperature: T.
        dropout: share that is dropped in the two passes.

    Raises:
        ValueError: for a beta below 0, an unknown `of`, a temperature or dropout out of its range, or an objective
            with passes of its own.
    """

    def __init__(
        self,
        objective: RewardObjective | None = None,
        beta: float = 0.1,
        of: Of = "responses",
        temperature: float = 0.05,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(objective or BradleyTerry())
        if not 0 <= beta < math.inf:
            raise ValueError(f"Contrastive.beta is {beta}; expected a finite number of at least 0")
        if of not in get_args(Of):
            raise ValueError(f"Contrastive.of is {of!r}; expected one of {', '.join(get_args(Of))}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"Contrastive.temperature is {temperature}; expected a finite number above 0")
        if not 0 < dropout < 1:
            raise ValueError(f"Contrastive.dropout is {dropout}; expected above 0, or both passes agree, and below 1")
        if self.dropout_passes:
            raise ValueError(
                f"Contrastive.objective is {type(self.objective).__name__}, which has passes with dropout of its own"
            )
        self.beta, self.of, self.temperature = beta, of, temperature
        if beta:
            self.dropout_passes, self.dropout = 2, dropout

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]. Raises ValueError where a single difference has no other row."""
        loss = self.objective.loss(batch)
        if not self.beta:
            return loss
        chosen, rejected = batch.dropout_states()
        if self.of == "responses":
            apart = info_nce(torch.cat([chosen, rejected], 1), self.temperature).view(2, -1).mean(0)
        elif len(batch) > 1:
            apart = info_nce(chosen - rejected, self.temperature)
        else:
            raise ValueError(
                "Contrastive.of is differences, and a batch has one pair on a process; expected two or more"
            )
        return loss + self.beta * apart
