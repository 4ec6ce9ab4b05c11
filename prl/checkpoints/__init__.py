"""Checkpoints on disk, and everything besides weights that an exact resume needs."""
