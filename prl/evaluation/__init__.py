"""Evaluation of data, judges and policies, with intervals."""
