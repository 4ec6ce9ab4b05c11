"""Evaluation of policies: report, validations over time, and the best checkpoint."""
