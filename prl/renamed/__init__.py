"""Names of earlier versions. `settings.py` has the settings that moved, `check.py` the classes, the error, the rewriting."""
