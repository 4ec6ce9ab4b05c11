"""Text of `prl --help`. The settings of a run are in `prl fit --help`, which must import everything first."""

import shutil
from importlib import import_module
from textwrap import fill

import prl
from prl.cli.commands import COMMANDS
from prl.run_folder import trust

VERBS = {
    "fit": "train a stage: supervised, generative or Bradley-Terry judge, pairwise PPO, OPPO, as the config says",
    "validate": "measure a checkpoint of a run on the validation data",
    "test": "the same, logged in the folder test of the run",
    "predict": "write what a checkpoint says of each row of the validation data into predictions.jsonl",
}
"""LightningCLI's subcommands."""
OPTIONS = {
    "--config FILE": "settings as YAML; of several files, and of options behind them, the last word counts",
    "--print_config": "print the settings that come of it, and stop",
    "--run_dir DIR": "folder of the run: config, checkpoints, curves, trained model (default runs/default)",
    "--ckpt_path FILE": "go on from a checkpoint, or measure it; `last` is the newest whole one of the run",
    "--overwrite true": "start anew in a run_dir that already holds a run",
    f"{trust.FLAG} true": "obey the config.yaml of a run folder also where it names code that is not prl's",
}
"""Most important options of the subcommands."""


def screen() -> str:
    """Format the whole help text."""
    about = prl.__doc__ or ""
    parts = [
        "usage: prl COMMAND [OPTIONS]",
        fill(about.partition(": ")[2].strip(), _width()),
        _rows("training, by `prl COMMAND --config FILE`:", VERBS),
        _rows("options of these four (all settings: `prl fit --help`):", OPTIONS),
        _rows("small commands, each with --help:", {name: summary(name) for name in COMMANDS}),
        "`prl --version` prints the version. README.md and docs/ tell the rest.",
    ]
    return "\n\n".join(parts) + "\n"


def summary(command: str) -> str:
    """Return the line that describes a small command: the first line of its module, after the name."""
    told = import_module(f"prl.cli.commands.{command}").__doc__ or ""
    return told.splitlines()[0].partition("`: ")[2].rstrip(".")


def _rows(title: str, rows: dict[str, str]) -> str:
    indent = max(map(len, rows)) + 4
    lines = [
        fill(f"  {name:<{indent - 2}}{text}", _width(), subsequent_indent=" " * indent, break_on_hyphens=False)
        for name, text in rows.items()
    ]
    return "\n".join([title, *lines])


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)
