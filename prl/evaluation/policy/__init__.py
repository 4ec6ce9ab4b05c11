"""How good a policy is: its report, its validations over time, and which checkpoint is best."""
