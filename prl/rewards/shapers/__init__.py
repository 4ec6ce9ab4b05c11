"""Shapers of rewards, one per file; the socket is `prl.rewards.shaping`."""

from typing import TYPE_CHECKING, Any

from prl.plugins import methods_in
from prl.rewards.shaping import RewardShaper

globals().update(methods_in(__name__, __path__, RewardShaper))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
