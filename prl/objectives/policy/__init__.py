"""Objectives of a policy that learns from its own rollouts, one per file; the socket is `base`."""

from typing import TYPE_CHECKING, Any

from prl.objectives.policy.base import PolicyObjective
from prl.plugins import methods_in

globals().update(methods_in(__name__, __path__, PolicyObjective))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
