"""Advantage estimators, one per file; `base.py` has the socket.

A new one is a file in this folder, found by itself; one in a file of the user's own works the same way.
"""

from typing import TYPE_CHECKING, Any

from prl.advantages.base import AdvantageEstimator
from prl.plugins import methods_in

globals().update(methods_in(__name__, __path__, AdvantageEstimator))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
