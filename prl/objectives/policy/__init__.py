"""Objectives of a policy that learns from its own rollouts."""
