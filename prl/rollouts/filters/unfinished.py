"""Leave out responses that did not end."""

import torch
from torch import Tensor

from prl.rollouts.filters.base import RolloutFilter
from prl.types import Rollout, Scores


class DropUnfinished(RolloutFilter):
    """Leave out responses that hit the length limit, whose reward says little (overlong filtering, DAPO 2503.14476)."""

    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Weigh finished responses 1, others 0: [B]."""
        return rollout.finished.to(torch.float32)
