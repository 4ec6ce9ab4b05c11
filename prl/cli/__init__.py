"""The command line: `entry.py` dispatches, `app.py` is LightningCLI's part, `commands/` holds the small commands."""
