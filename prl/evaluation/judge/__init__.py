"""Evaluation of judges: report, calibration and transitivity."""
