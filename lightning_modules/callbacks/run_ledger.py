"""Writer of the run ledger: one line per training batch, which `prl resume --verify` compares with a replay."""

import hashlib
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer

from prl import __version__
from prl.checkpoints.ledger import LEDGER, LedgerWriter, content_hash, fingerprint, state_numbers, weights_fingerprint
from prl.checkpoints.position import batches_done, is_dry_run
from prl.checkpoints.random_states import random_states
from prl.distributed import gathered, world_size

NUMBERS = ("reward/score", "kl/k1", "value/loss", "policy/loss", "policy/grad_norm", "train/loss")
"""Logged metrics in a line, without times and counts since the start of the process."""


class RunLedger(Callback):
    """Writes one line per training batch: its inputs when it starts, its results when it ends.

    The line includes `responses` and `rewards` where `training_step` returns a dict with them.
    """

    def __init__(self) -> None:
        self.line: dict[str, Any] = {}
        self._writer: LedgerWriter | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin a session."""
        if trainer.is_global_zero and not is_dry_run(trainer):
            folder = Path(trainer.default_root_dir)
            facts = {
                **{"prl": __version__, "torch": torch.__version__, "lightning": lightning.__version__},
                **{"processes": world_size(), "device": str(pl_module.device)},
                **{name: _file_hash(folder / name) for name in ("config.yaml", "data_report.json")},
            }
            self._writer = LedgerWriter(folder / LEDGER, batches_done(trainer), facts)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Record the state before the batch; `RandomStates` has restored the random states already."""
        own = [content_hash(batch), content_hash(random_states())]
        data, rng = (_of_ranks(hashes) for hashes in zip(*gathered(own), strict=True))
        self.line = {
            **{"batch": batches_done(trainer) + 1, "data": data, "rng": rng},
            "learning_rate": [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups],
            "state": state_numbers(pl_module.run_state.state_dict()),
        }

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Append a line with the batch's results."""
        outputs = outputs if isinstance(outputs, dict) else {}
        if "responses" in outputs:
            self.line["responses"] = _of_ranks(gathered(content_hash(outputs["responses"])))
        if "rewards" in outputs:
            self.line["rewards"] = fingerprint(torch.cat(gathered(outputs["rewards"].detach().cpu())))
        logged = trainer.callback_metrics
        self.line["numbers"] = {name: float(logged[name]) for name in NUMBERS if name in logged}
        self.line["weights"] = weights_fingerprint([each for each in pl_module.parameters() if each.requires_grad])
        if self._writer is not None:
            self._writer.append(self.line)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Close the session; Lightning may skip `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Close the session."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _of_ranks(hashes: Any) -> str:
    return hashes[0] if len(hashes) == 1 else content_hash(list(hashes))


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
