"""Objectives of judges and scalar reward models. `base.py` has the socket, other files one method each.

Every method here can be named in a config: `class_path: prl.objectives.reward.Pairwise`. A new one is a file in this
folder, found by itself; one in a file of the user's own works the same way.
"""

from typing import TYPE_CHECKING, Any

from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.plugins import methods_in

METHODS = methods_in(__name__, __path__, RewardObjective)
"""Every method of this folder by name."""
globals().update(METHODS)

__all__ = ["METHODS", "PairBatch", "RewardObjective"]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers that methods are found when the package is imported."""
