"""Checkpoints on disk, and what beside weights a run needs in order to go on exactly."""
