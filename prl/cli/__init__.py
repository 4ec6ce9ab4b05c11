"""The command line: `entry.py` looks who is meant, `app.py` is LightningCLI's part, `commands/` the small commands."""
