"""The command line: `app.py` is LightningCLI's part, `commands/` the small commands beside it."""
