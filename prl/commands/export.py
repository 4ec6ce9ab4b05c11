"""`prl export --checkpoint FILE --output DIR`: the model of any checkpoint as a folder that transformers loads.

The same folder as the `model/` that a finished run leaves: safetensors, tokenizer, chat template, of a judge its
template too; adapters are merged. No GPU and no data are needed, so a judge's passport is not written
(`prl judge --write-passport` does).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.stage import Stage
from prl.cli import RunError, resolve_checkpoint


def main(args: list[str]) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser("prl export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt file of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument("--config", type=Path, help="the run's config.yaml; found beside the checkpoint when left out")
    options = parser.parse_args(args)
    export(options.checkpoint, options.output, options.config)
    print(f"wrote {options.output}")


def export(checkpoint: Path, output: Path, config: Path | None = None) -> None:
    """Write the model of a checkpoint.

    Args:
        checkpoint: a .ckpt file.
        output: folder that does not exist yet, or is empty.
        config: the run's config.yaml; `run/config.yaml` of `run/checkpoints/x.ckpt` when None.

    Raises:
        RunError: when a file is missing or torn, or the folder holds something.
    """
    resolve_checkpoint(str(checkpoint), checkpoint)
    config = config or checkpoint.absolute().parent.parent / "config.yaml"
    if not config.is_file():
        raise RunError(f"no config at {config}; give the config.yaml of the run with --config")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"--output {output} holds something already; choose a new folder")
    stage = _build_stage(config)
    stage.configure_model()
    stage.restore(torch.load(checkpoint, map_location="cpu", weights_only=True), checkpoint)
    stage.export(output)


def _build_stage(config: Path) -> Any:
    """The stage of a resolved configuration, as LightningCLI builds it, without data and trainer."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Stage, "model", subclass_mode=True)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    return parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model
