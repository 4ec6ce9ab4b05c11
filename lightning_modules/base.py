"""Base of training modules: encoder of records, contents of checkpoints, export."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules import optimizers
from lightning_modules.callbacks.run_checkpoint import RunCheckpoint
from lightning_modules.state_registry import StateRegistry
from lightning_modules.step_health import StepHealth
from lightning_modules.strategies import check_precision, sharding_of
from prl.checkpoints.position import batches_done
from prl.config import ModelSource, Optimization
from prl.data.rows.records import Record
from prl.data.rows.row_errors import shown
from prl.data.store import RecordEncoder
from prl.distributed import rank
from prl.models.loading import on_meta_device
from prl.rewards.base import RewardSource
from prl.rewards.folder import judge_kind
from prl.rl.sharding import Sharding
from prl.run_folder.inputs import Inputs, folder_inputs, model_inputs


class Encoder(RecordEncoder, Protocol):
    """Encodes records as token ids and collates them: all that a data module needs of a training module."""

    def collate(self, rows: list[dict[str, Any]]) -> Any:
        """Collate encoded rows into one batch."""


class TrainingModule(LightningModule, ABC):
    """Base of training modules. A checkpoint holds trained weights; frozen weights are read from their folder."""

    record_type: ClassVar[type[Record]]
    """Kind of data row that the module learns from."""
    model: Any
    optimization: Optimization

    def __init__(self) -> None:
        super().__init__()
        self.run_state = StateRegistry()
        self.step_health = StepHealth(self)
        self.current_phase: str | None = None
        """Name of the batch's current phase, in modules whose batches have phases."""

    @abstractmethod
    def build_encoder(self) -> Encoder:
        """Build the encoder that turns records into ids; the data module calls this."""

    @property
    def max_grad_norm(self) -> float | None:
        """Limit of the gradient norm in a module that steps by itself; None where the trainer clips."""
        return None

    def configure_export(self) -> None:
        """Read the parts that `export` writes; a module may leave out the others."""
        self.configure_model()

    @abstractmethod
    def export(self, folder: Path, *, merge: bool = True) -> None:
        """Write the trained model as a folder that transformers loads.

        Args:
            folder: target; created if missing.
            merge: merge adapters into the weights, instead of writing them alone.

        Raises:
            ValueError: for merge: false without adapters.
        """

    def card_kind(self, folder: Path) -> str | None:
        """Return the kind of an exported folder, a key of `prl.models.model_card.KINDS`."""
        return judge_kind(folder)

    def after_export(self, folder: Path) -> None:
        """Add files to an exported folder at the end of training; does nothing by default."""

    def setup(self, stage: str) -> None:
        """Refuse a precision in which most steps are rounded away, before a model is read. Raises ValueError."""
        if stage == "fit":
            check_precision(self.trainer.precision)

    @property
    def sharding(self) -> Sharding:
        """Sharding of weights by the strategy; none without a trainer."""
        return sharding_of(self._trainer)

    def loading_models(self) -> AbstractContextManager[None]:
        """Enter around the loading of models that will be sharded.

        Where the strategy shards weights, only the first process reads them, and scatters them to the others.
        """
        return on_meta_device(self.sharding.cuts_weights and rank() > 0)

    def shard(self, model: Any) -> Any:
        """Shard a model that was just loaded, where the strategy does so."""
        return self.sharding.shard(model)

    def on_predict_start(self) -> None:
        """Refuse sharded weights.

        Raises ValueError: processes may have unequal numbers of rows, and would wait for each other.
        """
        if self.sharding.cuts_weights:
            raise ValueError(
                "prl predict does not work with weights in shards; a checkpoint needs no more than one process: give "
                "--trainer.strategy auto --trainer.devices 1"
            )

    def batches_done(self) -> int:
        """Count the training batches completed over the life of the run."""
        return batches_done(self.trainer)

    def begin_phase(self, name: str) -> None:
        """Show the new phase of a batch, and end the run if a signal asked for it.

        The contents of checkpoints must not have changed since the last batch, and ranks must be in step.
        """
        self.current_phase = name
        show = getattr(self.trainer.progress_bar_callback, "show_phase", None)
        if show is not None:
            show(name)
        for callback in self.trainer.checkpoint_callbacks if self.trainer.state.fn == "fit" else []:
            if isinstance(callback, RunCheckpoint):
                callback.poll(self.trainer)

    def logged_step(self) -> int:
        """Return the x axis position that Lightning gives to metrics logged now; for direct writes to TensorBoard."""
        return self.trainer.fit_loop.epoch_loop._batches_that_stepped

    @property
    def tensorboard(self) -> Any:
        """The TensorBoard writer for histograms and tables; None without one, and on all ranks but the first."""
        loggers = [each for each in self.trainer.loggers if isinstance(each, TensorBoardLogger)]
        return loggers[0].experiment if loggers and self.trainer.is_global_zero else None

    def step_totals(self, batch: Any) -> dict[str, Tensor]:
        """Return the denominators of a step's means: name -> [N] numbers of a batch, summed over the step."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its gradients are accumulated")

    def whole_step(self, batch: Any) -> tuple[dict[str, Tensor], int]:
        """Return this process's totals of a step, and the number of batches by which Lightning divides gradients.

        Raises:
            ValueError: when gradients are accumulated and the batch has no totals of its step.
        """
        if "of_step" in batch:
            return batch["of_step"], self.trainer.accumulate_grad_batches
        every = 1 if self._trainer is None else self.trainer.accumulate_grad_batches
        if every > 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches is {every}, but the batches do not say what their step sums up to; "
                "use a data module of prl, a StepLoader (datamodules/steps.py), or larger batches"
            )
        return self.step_totals(batch), 1

    def means(self, batch: Any, mean: Callable[[dict[str, Tensor], int], Tensor]) -> tuple[Tensor, Tensor]:
        """Compute a batch's share of the mean over its step, to learn from, and the mean over the batch alone, to log.

        Args:
            batch: the batch.
            mean: computes the first of the two from the results of `whole_step`.
        """
        loss = mean(*self.whole_step(batch))
        alone = mean(self.step_totals(batch), 1) if "of_step" in batch else loss
        return loss, alone.detach()

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule over `self.model`."""
        return optimizers.configure(self.model.parameters(), self.optimization, self.trainer)

    def on_train_start(self) -> None:
        """Take the learning rate from this run's schedule; the checkpoint's schedule may have had another length."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, LambdaLR):
                optimizers.continue_schedule(config.scheduler)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep the batch for failure reports, and announce whether a step follows it."""
        self.step_health.begin(batch)
        if self.automatic_optimization:
            self.sharding.begin_microbatch(last=not self.trainer.fit_loop._should_accumulate())

    def on_before_backward(self, loss: Tensor) -> None:
        """Keep the loss until the step; a module with manual optimization checks its numbers itself."""
        if self.automatic_optimization:
            self.step_health.add(loss)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Check the loss and the gradients. Raises HealthError where one is not finite."""
        if self.automatic_optimization:
            self.step_health.check_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step and free the gradients.

        Lightning would keep them, a model's size, through the next forward pass.
        """
        super().optimizer_step(*args, **kwargs)
        # A strategy that accumulates gradients itself calls this after every backward pass, and frees them itself.
        if not self.trainer.strategy.handles_gradient_accumulation:
            self.optimizers().zero_grad()  # type: ignore[union-attr]

    def _optimizer_settings(self) -> dict[str, float | None]:
        """Return the settings that the optimizer's saved state would override on resume."""
        names = ("learning_rate", "weight_decay", "beta1", "beta2")
        return {name: getattr(self.optimization, name) for name in names}

    def checkpoint_settings(self) -> dict[str, Any]:
        """Return the settings that a checkpoint of this model depends on, by name.

        They are JSON values, and are compared when a checkpoint is read.
        """
        return {}

    @cached_property
    def _checkpoint_settings(self) -> dict[str, Any]:
        return self.checkpoint_settings()  # hashing a large tokenizer takes a second

    def inputs(self) -> Inputs:
        """Hash the model and judge folders that were read; see `prl/run_folder/inputs.py`."""
        found: Inputs = {}
        sources: list[ModelSource] = []
        for name, part in vars(self).items():
            if isinstance(part, ModelSource) and part not in sources:  # a critic begins as the policy
                sources.append(part)
                found |= model_inputs(f"model.{name.removesuffix('_source')}", part)
        for name, part in self.named_children():
            rewards = list(part.leaves()) if isinstance(part, RewardSource) else []
            for number, reward in enumerate(rewards, start=1):
                of_reward = f"model.{name}" + (f".{number}" if len(rewards) > 1 else "")
                if reward.folder is not None:
                    found |= folder_inputs(of_reward, reward.folder)
                else:
                    for role, source in reward.model_sources().items():
                        found |= model_inputs(f"{of_reward}{role and '.'}{role}", source)
        return found

    def frozen_names(self) -> set[str]:
        """Return the names of weights that training does not change, and that no checkpoint holds."""
        # Tied weights have two names, and state_dict holds both.
        named = self.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove frozen weights (reference, judge, base model of adapters), and add the name of the module's class."""
        if self._trainer is not None:
            self.step_health.check_weights()
        frozen = self.frozen_names()
        checkpoint["stage"] = type(self).__name__
        checkpoint["optimizer_settings"] = self._optimizer_settings()
        checkpoint["run_state"] = self.run_state.state_dict()
        checkpoint["checkpoint_settings"] = self._checkpoint_settings
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def restore(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        """Load the weights of a checkpoint without a trainer, for the parts that `configure_export` has read.

        Raises:
            ValueError: when another stage wrote the checkpoint, or with other `checkpoint_settings`.
        """
        self._put_frozen_back(checkpoint, path)
        self.load_state_dict({k: v for k, v in checkpoint["state_dict"].items() if self._is_read(k)})

    def _is_read(self, key: str) -> bool:
        """Return whether the module that owns a weight was read; parts that were not read are None."""
        part: Any = self
        for name in key.split("."):
            if not hasattr(part, name):
                return True  # then strict loading must raise
            part = getattr(part, name)
            if part is None:
                return False
        return True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put frozen weights back from memory, so that loading stays strict about everything else.

        Raises:
            ValueError: when another stage wrote the checkpoint, or with other settings of the optimizer or other
                `checkpoint_settings`, or when it has other stateful parts.
        """
        self._put_frozen_back(checkpoint, str(self.trainer.ckpt_path))
        before, now = checkpoint.get("optimizer_settings"), self._optimizer_settings()
        if self.trainer.training and before not in (None, now):
            raise ValueError(
                f"the checkpoint was trained with {before}, the configuration says {now}. The optimizer continues with "
                "its own, so a change would have no effect; put the old values back, or start a new run"
            )
        self.run_state.load_state_dict(checkpoint.get("run_state", {}))

    def _put_frozen_back(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        found = checkpoint.get("stage", type(self).__name__)
        if found != type(self).__name__:
            raise ValueError(
                f"checkpoint {path} was written by {found}, this run trains {type(self).__name__}; "
                "give the checkpoint of this stage"
            )
        before = checkpoint.get("checkpoint_settings") or checkpoint.get("fixed_settings", {})  # its earlier key
        now = self._checkpoint_settings
        if changed := [name for name in before if name in now and before[name] != now[name]]:
            lines = [f"- {name}: {shown(before[name])} in training, {shown(now[name])} now" for name in changed]
            raise ValueError(
                f"checkpoint {path} was trained with other settings than the configuration has:\n"
                + "\n".join(lines)
                + "\nThe model knows only what it was trained with; put the old values back, or start a new run"
            )
        current, frozen = self.state_dict(), self.frozen_names()
        checkpoint["state_dict"] = {**{k: current[k] for k in frozen if k in current}, **checkpoint["state_dict"]}
