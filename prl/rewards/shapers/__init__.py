"""Shapers of rewards, one to a file; see `prl.rewards.shaping` for what a shaper has to offer."""

from typing import TYPE_CHECKING, Any

from prl.plugins import methods_in
from prl.rewards.shaping import RewardShaper

globals().update(methods_in(__name__, __path__, RewardShaper))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
