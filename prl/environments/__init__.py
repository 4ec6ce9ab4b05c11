"""Environments, which answer a policy between its turns."""

from prl.environments.base import Environment, Episode, Reply
from prl.environments.guess import GuessTheNumber

__all__ = ["Environment", "Episode", "GuessTheNumber", "Reply"]
