"""The folder of a run: its contents, its writer, and the limits of its config."""
