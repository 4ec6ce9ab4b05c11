"""SPO: any objective on pairs, with a head that tells how much was removed from a response."""

import math
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from prl.objectives.preference.base import NEEDS, PreferenceBatch, PreferenceObjective, ScoredResponses
from prl.objectives.preference.dpo import DPO


class SPO(PreferenceObjective):
    """L_PO + lambda (CE_w + CE_l), learning how much a response is preferred (preference degree, 2409.17791).

    Keywords are removed from both responses of a pair, to one of C levels (`prl corrupt`). A linear head on the state
    that has read all of a corrupted response tells the level of each, by cross-entropy. It starts at zero, hence at
    ln C, and is not exported.

    Text columns `corrupted_chosen` and `corrupted_rejected`, and their levels from 0 to C - 1, `level_chosen` and
    `level_rejected`, are read, and all that L_PO reads. The logged reward is that of L_PO.

    Its authors published no code. That keywords are RAKE's, that a head tells the level and that its loss is added was
    read in summaries; where the head stands, C and lambda are this library's choice.

    Args:
        objective: L_PO, another preference objective; DPO with its defaults when null.
        weight: lambda; 0 is L_PO alone, and reads no corrupted response.
        levels: C, levels of removal, the untouched one included.

    Raises:
        ValueError: for a weight below 0, fewer than 2 levels, or an objective that reads these columns itself.
    """

    def __init__(self, objective: PreferenceObjective | None = None, weight: float = 0.1, levels: int = 4) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"SPO.weight is {weight}; expected a finite number of at least 0")
        if levels < 2:
            raise ValueError(f"SPO.levels is {levels}; expected at least 2")
        self.objective, self.weight = objective or DPO(), weight
        for need in NEEDS:
            setattr(self, need, getattr(self.objective, need))
        if not weight:
            return
        if {"degree"} & self.heads.keys() or {*VIEWS, *LEVELS} & {*self.views, *self.columns}:
            raise ValueError(
                f"SPO.objective is {type(self.objective).__name__}, which reads corrupted responses itself"
            )
        self.heads = {**self.heads, "degree": levels}
        self.views, self.columns = (*self.views, *VIEWS), (*self.columns, *LEVELS)
        self.classes = {**self.classes, **dict.fromkeys(LEVELS, levels)}

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        loss = self.objective.loss(batch)
        if not self.weight:
            return loss
        told = [
            cross_entropy(batch.views[view].at_end("degree"), batch.columns[level].long(), reduction="none")
            for view, level in zip(VIEWS, LEVELS, strict=True)
        ]
        return loss + self.weight * (told[0] + told[1])

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of L_PO, for logs: [N]."""
        return self.objective.reward(responses)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of L_PO; nothing where it has none."""
        state = getattr(self.objective, "state_dict", None)
        return {} if state is None else state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state of L_PO."""
        if (load := getattr(self.objective, "load_state_dict", None)) is not None:
            load(state)


VIEWS = ("corrupted_chosen", "corrupted_rejected")
LEVELS = ("level_chosen", "level_rejected")
