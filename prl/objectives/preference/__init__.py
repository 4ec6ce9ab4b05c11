"""Objectives of a policy that learns from preference pairs. `base.py` has the socket, other files one method each.

Every method here can be named in a config: `class_path: prl.objectives.preference.DPO`. A new method is a file
in this folder, found by itself; a method in a user's own file works alike.
"""

from typing import TYPE_CHECKING, Any

from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses
from prl.objectives.preference.evaluate import evaluate
from prl.plugins import methods_in

METHODS = methods_in(__name__, __path__, PreferenceObjective)
"""Every method of this folder by name."""
globals().update(METHODS)

__all__ = ["METHODS", "PreferenceBatch", "PreferenceObjective", "ScoredResponses", "evaluate"]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers that methods are found when the package is imported."""
