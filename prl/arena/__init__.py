"""`prl arena`: responses of several players compared by a judge, chosen where the scale learns most."""

from prl.arena.playing import Arena
from prl.arena.record import ArenaError

__all__ = ["Arena", "ArenaError"]
