"""Socket of rollout filters: which responses count in the update."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from prl.types import Rollout, Scores


class RolloutFilter(ABC):
    """Weighs each response in the update. The arguments of the constructor are the settings.

    A filter with a state has `state_dict` and `load_state_dict`; the run finds and saves the state.
    """

    min_per_prompt: ClassVar[int] = 1
    """Fewest responses per prompt that the filter needs."""

    @abstractmethod
    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Compute the weights of responses: [B], not negative. 0 leaves a response out of losses, whitening and KL.

        Args:
            rollout: B responses.
            scores: rewards after shaping; a response with NaN is left out anyway.
        """
