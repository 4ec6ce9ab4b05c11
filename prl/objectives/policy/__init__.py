"""Objectives of a policy that learns from its own rollouts, one per file; `base.py` has the socket.

A new one is a file in this folder, found by itself; one in a file of the user's own works the same way.
`clipped.py` has the clipped losses as functions.
"""

from typing import TYPE_CHECKING, Any

from prl.objectives.policy.base import PolicyObjective
from prl.plugins import methods_in

globals().update(methods_in(__name__, __path__, PolicyObjective))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
