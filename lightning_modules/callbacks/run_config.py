"""Resolved configuration of a run, from which `prl export` builds the model of checkpoints."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from prl.run_folder.sealed_config import write_config


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` when training begins, so that a refused start leaves the earlier file in place."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing yet: models are not loaded, and the checkpoint is not restored."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the config, now that models and checkpoint are in place."""
        self.config.accept_changes = False  # a setting of this start only
        if trainer.is_global_zero:
            # Parsing has validated the settings; doing it again takes four fifths of the time.
            text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
            write_config(Path(trainer.default_root_dir), text)
