"""`prl predict` leaves its results in a file: LightningCLI itself throws them away."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class PredictionFile(Callback):
    """Writes what `predict_step` returns, one JSON object per row, to RUN_DIR/predictions.jsonl.

    With several processes each writes the rows it had, to predictions.rankN.jsonl.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty file."""
        name = "predictions.jsonl" if trainer.world_size == 1 else f"predictions.rank{trainer.global_rank}.jsonl"
        self.path = Path(trainer.default_root_dir) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the rows of a batch."""
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in outputs)
