"""Objectives of judges and reward models that learn from preference pairs."""
