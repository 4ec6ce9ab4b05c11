"""Advantage estimators, one per file; the socket is `prl.advantages.base`."""

from typing import TYPE_CHECKING, Any

from prl.advantages.base import AdvantageEstimator
from prl.plugins import methods_in

globals().update(methods_in(__name__, __path__, AdvantageEstimator))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
