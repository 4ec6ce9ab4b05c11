"""Results of `prl predict` in a file: LightningCLI itself discards them."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from prl.system.full_disk import naming_when_full
from prl.system.outputs import check_file, lines_with, partial_path, sync


class PredictionFile(Callback):
    """Writes the results of `predict_step` to RUN_DIR/predictions.jsonl, one JSON object per row.

    With several processes each writes its rows to predictions.rankN.jsonl. Earlier predictions stay until the new ones
    are complete; another file of this name stays, and is an error.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a new file beside the target."""
        name = "predictions.jsonl" if trainer.world_size == 1 else f"predictions.rank{trainer.global_rank}.jsonl"
        self.path = Path(trainer.default_root_dir) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = partial_path(self.path)
        self._partial.write_text("")
        self._is_checked = False

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
        if not self._is_checked and outputs:
            check_file(self.path, "the file of the predictions,", lines_with(*outputs[0]))
            self._is_checked = True
        with naming_when_full(self.path), self._partial.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the file into place."""
        sync(self._partial)
        self._partial.replace(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Delete the incomplete file."""
        if (partial := getattr(self, "_partial", None)) is not None:
            partial.unlink(missing_ok=True)
