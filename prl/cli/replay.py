"""Replay of some batches of a run, for `prl resume --verify`."""

import contextlib
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.callbacks.run_ledger import RunLedger
from prl.cli.app import PrlCLI, run_stage


def replayed(args: list[str], count: int) -> tuple[list[dict[str, Any]], bool]:
    """Read the ledger lines of the first `count` batches of a replayed run, and whether this is its first process."""
    replay = _Replay(count)
    cli = type("_ReplayOfThis", (_ReplayCLI,), {"replay": replay})
    with contextlib.suppress(_ReplayedAll):
        run_stage(args, cli=cli)
    return replay.lines, replay.is_first_rank


class _ReplayedAll(BaseException):
    """Ends the replay without a failure."""


class _Replay(Callback):
    """Collects the lines of the ledger, which comes before it, and ends the run after enough lines."""

    def __init__(self, count: int) -> None:
        self.count, self.is_first_rank = count, True
        self.lines: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.is_first_rank = trainer.is_global_zero
        ledger = next(callback for callback in trainer.callbacks if isinstance(callback, RunLedger))
        self.lines.append(ledger.line)
        if len(self.lines) == self.count:
            raise _ReplayedAll


class _ReplayCLI(PrlCLI):
    """A run that leaves no file behind; a ModelCheckpoint of the config would write into the run."""

    replay: _Replay

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        config = self._get(self.config_init, "trainer", default={})
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        config["callbacks"] = [each for each in given if not isinstance(each, Checkpoint)]
        return super().instantiate_trainer(**kwargs)

    def own_callbacks(self) -> list[Any]:
        return [*super().own_callbacks(), self.replay]
