"""A stage from the settings of its run, with the weights of a checkpoint, ready to be exported."""

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.stage import Stage
from prl.checkpoints import sharded as sharded_files


def read_stage(settings: dict[str, Any], checkpoint: Path) -> Any:
    """The stage of a run with the weights of a checkpoint, as far as `export` needs them."""
    stage = build_stage(settings)
    stage.configure_export()
    stage.restore(sharded_files.read(checkpoint), checkpoint)
    return stage


def build_stage(settings: dict[str, Any]) -> Any:
    """The stage of a resolved configuration, as LightningCLI builds it, without data and trainer."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Stage, "model", subclass_mode=True)
    return parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model
