"""Names of earlier versions: `settings.py` has settings that moved, `check.py` classes, the error and the rewriting."""
