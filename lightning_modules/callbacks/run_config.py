"""The run's resolved configuration, from which `prl export` builds the model of its checkpoints."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` when training begins, not before: a start that is refused leaves the old one in place."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: models are still to be read, and the checkpoint to be restored."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Everything is in place."""
        super().setup(trainer, pl_module, "fit")
