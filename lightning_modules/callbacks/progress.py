"""First lines of a run, and one progress bar for the run that shows its phase."""

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lightning_modules.callbacks.run_checkpoint import RunCheckpoint
from lightning_modules.strategies import shape_of
from prl.checkpoints.position import batches_done, is_dry_run


def beginning(trainer: Any, title: str, total: int | None) -> str:
    """Describe a run in a few lines: stage, device, precision, rows, weights, run folder, command for the curves."""
    done = batches_done(trainer)
    batches = f"batches {done + 1} to {total}" if total else f"from batch {done + 1}"
    device, processes = trainer.strategy.root_device.type, trainer.world_size
    where = f"{processes} processes, each on {device}" if processes > 1 else device
    lines = [f"{title}: {batches}, on {where}, precision {trainer.precision}"]
    if rows := getattr(trainer.datamodule, "rows", None):
        lines.append(f"data: {len(rows['train'])} rows for training, {len(rows['validation'])} for validation")
    if module := getattr(trainer, "lightning_module", None):
        counts = dict.fromkeys((True, False), 0)
        for parameter in module.parameters():
            counts[parameter.requires_grad] += shape_of(parameter).numel()
        lines.append(f"weights: {counts[True]:,} to train, {counts[False]:,} frozen")
    if not is_dry_run(trainer):
        run = trainer.default_root_dir
        lines.append(f"run folder: {run}" + (f"; curves: tensorboard --logdir {run}" if trainer.loggers else ""))
    return "\n".join(lines)


def ending(trainer: Any, iterations: int | None, model: Path) -> str:
    """Describe the end of a run in a few lines: what there was to do, the trained model, the best checkpoint.

    Args:
        trainer: after its last batch.
        iterations: batches of a stage that counts them (PPO); None where the trainer's limits end the run.
        model: folder of the trained model.
    """
    lines = []
    if not any(isinstance(each, RunCheckpoint) and each.has_trained for each in trainer.checkpoint_callbacks):
        done, total, what, setting = trainer.global_step, trainer.max_steps, "steps", "trainer.max_steps"
        if iterations is not None:
            done, total, what, setting = batches_done(trainer), iterations, "iterations", "model.init_args.iterations"
        elif total < 0:
            done, total, what, setting = trainer.current_epoch, trainer.max_epochs, "epochs", "trainer.max_epochs"
        if iterations is not None and done < iterations:
            setting = _other_limit(trainer)
        lines.append(f"nothing to do: {done} of {total} {what} are done; raise {setting} to train on")
    lines.append(f"model: {model}")
    for callback in trainer.checkpoint_callbacks:
        # Without a figure to monitor, Lightning's best checkpoint is the last one.
        if (best := getattr(callback, "best_model_path", None)) and callback.best_model_score is not None:
            lines.append(f"best checkpoint: {best} ({callback.monitor} {float(callback.best_model_score):.4g})")
    return "\n".join(lines)


def _other_limit(trainer: Trainer) -> str:
    """Name the limit of the trainer that ends a run before its iterations."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps, which is {trainer.max_steps} and counts optimizer steps here,"
    return "trainer.max_epochs or trainer.max_time"


class PhaseProgressBar(ProgressBar):
    """Shows training batches up to the end of the run; without a terminal, lines at intervals instead.

    Args:
        lines: number of lines over a run without a terminal.
    """

    def __init__(self, lines: int = 10) -> None:
        super().__init__()
        self._lines, self._enabled = lines, True
        self._bar: tqdm | None = None
        self._title = ""
        self._first, self._began = 0, 0.0

    def disable(self) -> None:
        """Hide all output; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show messages again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the run's current batch."""
        total = getattr(pl_module, "iterations", None)
        if total is None and trainer.max_steps > 0:
            total = trainer.max_steps * trainer.accumulate_grad_batches
        if total is None and trainer.max_epochs and trainer.max_epochs > 0:
            total = int(trainer.max_epochs * trainer.num_training_batches)
        self._title = type(pl_module).__name__.removesuffix("Module")
        if self._enabled:
            sys.stderr.write(beginning(trainer, self._title, total) + "\n")
            if getattr(pl_module, "iterations", None) is not None and trainer.max_steps > 0:
                sys.stderr.write(
                    f"trainer.max_steps {trainer.max_steps} counts optimizer steps, several of each iteration: it may "
                    f"end the run before its {total} iterations; leave it at -1\n"
                )
        terminal = self._enabled and sys.stderr.isatty()
        done = batches_done(trainer)
        self._bar = tqdm(total=total, initial=done, desc=self._title, disable=not terminal, dynamic_ncols=True)
        self._first, self._began = done, perf_counter()

    def show_phase(self, name: str) -> None:
        """Show the new phase."""
        if self._bar is not None and not self._bar.disable:
            self._bar.set_description(f"{self._title} · {name}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, with the metrics that modules log for it."""
        if self._bar is None or not self._enabled:
            return
        done = batches_done(trainer)
        if not self._bar.disable:
            if done % 5 == 0:
                self._bar.set_postfix(self._numbers(trainer, pl_module), refresh=False)
            self._bar.update(1)
        elif self._bar.total and done % max(1, self._bar.total // self._lines) == 0:
            numbers = "  ".join(f"{k} {v}" for k, v in self._numbers(trainer, pl_module).items())
            seconds = (perf_counter() - self._began) / (done - self._first) * (self._bar.total - done)
            left = f"{tqdm.format_interval(seconds)} left"
            tqdm.write(f"{self._title} {done}/{self._bar.total}  {left}  {numbers}", file=sys.stderr)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show validation as a phase."""
        self.show_phase("validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show training as the phase again."""
        self.show_phase("training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _numbers(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        metrics = self.get_metrics(trainer, pl_module)
        return {k: f"{v:.3g}" for k, v in metrics.items() if isinstance(v, int | float) and k != "v_num"}
