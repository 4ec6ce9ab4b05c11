"""Sampling responses: by the model in this process, or by an inference server."""

from prl.rollouts.server import RolloutServer

__all__ = ["RolloutServer"]
