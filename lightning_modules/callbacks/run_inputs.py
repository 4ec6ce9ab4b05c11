"""Hashes of a run's inputs in its checkpoints: a resume with changed inputs is refused, or accepted and logged."""

import logging
from collections.abc import Iterable
from typing import Any

from lightning import Callback, Trainer

from prl.checkpoints.position import is_dry_run
from prl.run_folder.inputs import Inputs, changed_inputs, is_accepted, with_current_names
from prl.run_folder.sealed_config import CONFIG

log = logging.getLogger(__name__)


class RunInputs(Callback):
    """Stores the inputs of training module and data module (`inputs()` of each), and compares them on resume.

    Args:
        accept: changes to accept; true for all, or names of inputs.
    """

    def __init__(self, accept: bool | list[str] = False) -> None:
        self.accept = accept
        self.inputs: Inputs = {}

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Hash the inputs for later checkpoints."""
        self._hash(trainer, pl_module)

    def _hash(self, trainer: Trainer, pl_module: Any) -> None:
        # On one process for all, and after models are loaded: models of the hub are in the cache only then.
        if not self.inputs and not is_dry_run(trainer):
            data = getattr(trainer.datamodule, "inputs", dict)  # type: ignore[attr-defined]
            found: Any = {**data(), **pl_module.inputs()} if trainer.is_global_zero else None
            self.inputs = trainer.strategy.broadcast(found)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Store the hashes in the checkpoint."""
        checkpoint["inputs"] = self.inputs

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Compare the stored hashes with the current ones.

        Raises:
            ValueError: when an input changed and is not among the accepted ones.
        """
        if trainer.state.fn != "fit" or is_dry_run(trainer):
            return  # validation and other subcommands may read other inputs
        self._hash(trainer, pl_module)
        if "inputs" not in checkpoint:
            if trainer.is_global_zero:
                log.warning("the checkpoint has no hashes of its data and models: whether they changed is not known")
            return
        before = with_current_names(checkpoint["inputs"])
        known = {*before, *self.inputs, CONFIG}
        unknown = [] if isinstance(self.accept, bool) else [n for n in self.accept if not _is_known(n, known)]
        if unknown:
            raise ValueError(
                f"--accept_changes names {unknown[0]!r}, which is no input of this run; its inputs are "
                f"{', '.join(_groups(sorted(known)))}"
            )
        changed = changed_inputs(before, self.inputs)
        refused = {name: how for name, how in changed.items() if not is_accepted(name, self.accept)}
        if refused:
            raise ValueError(
                f"the inputs of checkpoint {trainer.ckpt_path} have changed:\n"
                + "\n".join(f"- {name}: {how}" for name, how in refused.items())
                + f"\nPut back what was there, or go on with --accept_changes '[{', '.join(_groups(refused))}]'"
            )
        for name, how in changed.items() if trainer.is_global_zero else ():
            log.warning("an input changed, as accepted: %s: %s", name, how)


def _is_known(name: str, known: Iterable[str]) -> bool:
    """Return whether `name` is a known input, or a group of inputs."""
    return any(is_accepted(each, [name]) for each in known)


def _groups(names: Any) -> list[str]:
    """Group inputs by the name of their model."""
    return list(dict.fromkeys(name.partition("/")[0] for name in names))
