"""Planted faults: does the quick suite notice when the code is wrong? `python -m tests.mutations --help`."""
