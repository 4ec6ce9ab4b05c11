"""Filters of rollouts, one per file; the socket is `prl.rollouts.base`."""

from typing import TYPE_CHECKING, Any

from prl.plugins import methods_in
from prl.rollouts.base import RolloutFilter

globals().update(methods_in(__name__, __path__, RolloutFilter))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
