"""Rounds of sampling, judging and training: iterative preference optimisation."""
