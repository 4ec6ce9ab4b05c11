"""Keep the responses of a prompt whose rewards are the surest: the extremes."""

from typing import Literal

import torch
from torch import Tensor

from prl.rollouts.filters.base import RolloutFilter
from prl.types import Rollout, Scores


class PolicyFiltration(RolloutFilter):
    """Train on the best response of a prompt, or on the best and another one (PF-PPO 2409.06957).

    A reward model is most reliable at its extremes, and least in between. Advantages are those of what is kept. Of
    equal rewards the first response counts as the best, the last as the worst. The random response is drawn from the
    run's random numbers. A response without a reward is never kept.

    Args:
        keep: best (BoN), best_random (BR: the best and one of the others), or best_worst (BW).

    Raises:
        ValueError: for another choice.
    """

    min_per_prompt = 2

    def __init__(self, keep: Literal["best", "best_random", "best_worst"] = "best_worst") -> None:
        if keep not in ("best", "best_random", "best_worst"):
            raise ValueError(f"PolicyFiltration.keep is {keep!r}; expected best, best_random or best_worst")
        self.keep = keep

    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Weigh the kept responses 1, others 0: [B]."""
        rewards, group = scores.rewards.cpu(), rollout.group.cpu()
        kept = torch.zeros(len(rewards))
        for prompt in group.unique():
            rows = ((group == prompt) & ~rewards.isnan()).nonzero().squeeze(1)
            if not len(rows):
                continue
            order = rows[rewards[rows].argsort(descending=True, stable=True)]
            kept[order[0]] = 1
            if self.keep != "best" and len(order) > 1:
                other = torch.randint(1, len(order), ()) if self.keep == "best_random" else -1
                kept[order[other]] = 1
        return kept.to(scores.rewards.device)
