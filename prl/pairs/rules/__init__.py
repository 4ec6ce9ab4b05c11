"""Rules that choose pairs or demonstrations among candidates; a config names one by `prl.pairs.rules.NAME`."""

from typing import TYPE_CHECKING, Any

from prl.pairs.base import CandidateRule
from prl.plugins import methods_in

RULES = methods_in(__name__, __path__, CandidateRule)
"""Every rule of this folder by name."""
globals().update(RULES)

__all__ = ["RULES"]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers that rules are found when the package is imported."""
