"""How good a judge is: its report, calibration and transitivity."""
