"""Export of a run: its training module from settings and a checkpoint, written as a model folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.base import TrainingModule
from prl.checkpoints import sharded as sharded_files
from prl.judge.passport import adopt_passport, read_passport
from prl.judge.training_record import read_training, write_training
from prl.models.model_card import write_card
from prl.rewards.folder import judge_kind
from prl.system.outputs import writing_folder


def write_model(settings: dict[str, Any], checkpoint: Path, output: Path, *, passport_of: Path, merge: bool) -> None:
    """Write the model of a checkpoint as a folder that transformers loads.

    Args:
        settings: settings of the run.
        checkpoint: a .ckpt file, or a folder of shards.
        output: a new or empty folder.
        passport_of: folder whose passport is copied to a judge with equal weights, and the record of whose training to
            any judge of the run.
        merge: merge adapters into the weights, instead of writing them alone.
    """
    passport, training = read_passport(passport_of), read_training(passport_of)
    module = load_training_module(settings, checkpoint)
    with writing_folder(output) as partial:
        module.export(partial, merge=merge)
        write_card(partial, module.card_kind(partial), settings, adapter=not merge)
        if judge_kind(partial) is not None:
            if training is not None:
                write_training(partial, training)
            adopt_passport(partial, passport)


def load_training_module(settings: dict[str, Any], checkpoint: Path) -> Any:
    """Load the training module of a run, with the weights of a checkpoint that `export` needs."""
    module = build_training_module(settings)
    module.configure_export()
    module.restore(sharded_files.read(checkpoint), checkpoint)
    return module


def build_training_module(settings: dict[str, Any]) -> Any:
    """Build the training module of a resolved configuration, as LightningCLI does, without data and trainer."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(TrainingModule, "model", subclass_mode=True)
    return parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model
