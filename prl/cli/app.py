"""LightningCLI's part of the command line: fit, validate, test and predict."""

import contextlib
import gc
import logging
import os
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import SUPPRESS, set_parsing_settings
from lightning import LightningDataModule
from lightning.fabric.utilities import seed
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero

import datamodules  # noqa: F401 - makes short class names known to YAML
import lightning_modules  # noqa: F401
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks import (
    FailureReport,
    ForgetRepeatedSteps,
    PhaseProgressBar,
    PredictionFile,
    RandomStates,
    RunCheckpoint,
    RunConfig,
    RunInputs,
    RunLedger,
    ending,
)
from lightning_modules.export import load_training_module
from lightning_modules.strategies import check_setting
from prl.checkpoints.files import CheckpointError, finish_move, holds_checkpoints, latest_valid, was_cut_off
from prl.checkpoints.position import is_dry_run
from prl.checkpoints.resolve import RunError, resolve_checkpoint
from prl.cli.errors import is_utf8
from prl.cli.usage import Parser
from prl.models.model_card import write_card
from prl.renamed.check import check_names
from prl.run_folder import trust
from prl.run_folder.contents import BEGUN_FILES, DATA_REPORT, MODEL, check_run_folder, foreign_files, is_kept
from prl.run_folder.lock import is_first_process, run_lock
from prl.run_folder.sealed_config import CONFIG
from prl.system.full_disk import is_disk_full, path_behind
from prl.system.outputs import writing_folder

log = logging.getLogger(__name__)

gc.freeze()  # objects of the imports stay: collections skip them, which saves seconds at the exit


class PrlCLI(LightningCLI):
    """LightningCLI with one run folder per run, exact resume, and the trained model written at the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        every, verb = LightningCLI.subcommands(), next(iter(kwargs["args"]), "")
        # Making the parsers of the others takes a quarter of a second.
        self.subcommands = lambda: {verb: every[verb]} if verb in every else every  # type: ignore[method-assign]
        with ExitStack() as self._until_end:
            super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add prl's own top-level settings."""
        parser.add_argument(
            "--run_dir", type=str, default="runs/default", help="Folder of the run: config, events, checkpoints, model."
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Start anew in a run_dir that already holds a checkpoint."
        )
        parser.add_argument(
            "--accept_changes",
            type=bool | list[str],
            default=False,
            help="Resume although inputs have changed since the checkpoint: those of these names, or true for all.",
        )
        for name in ("optimizer", "lr_scheduler"):  # null in the configs of runs that prl 0.1 wrote
            parser.add_argument(f"--{name}", type=type(None), default=None, help=SUPPRESS)
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("run_dir", "checkpoint.dirpath", compute_fn=lambda folder: f"{folder}/checkpoints")

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the hyper-parameters inside a checkpoint override YAML and command line without a word.
        # Here the configuration is what the user wrote, also on resume.
        return

    def _dump_config(self) -> None:
        # Lightning's, without validating a second time what parsing has validated.
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(self.config, skip_link_targets=False, skip_unset=False, skip_validation=True)
            self.config_dump = yaml.safe_load(text)[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Refuse impossible strategies and precisions, and resolve the checkpoint, before compute is spent."""
        config = self.config[self.subcommand]
        trust.check(config.as_dict())
        if not is_utf8(config.run_dir):
            raise RunError(
                f"run_dir {config.run_dir!r} is not UTF-8, which TensorBoard cannot write; choose another name"
            )
        precision = config.trainer.precision if self.subcommand == "fit" else None
        check_setting(config.trainer.as_dict()["strategy"], config.trainer.accelerator, precision)
        if self.subcommand == "fit":
            self._begin_run(config)
        else:
            config.ckpt_path = resolve_checkpoint(config.ckpt_path, Path(config.run_dir) / "checkpoints")
        if config.get("weights_only") is None:
            config.weights_only = True  # a checkpoint is data: reading it must not run code

    def _begin_run(self, config: Any) -> None:
        """Lock the run folder until the end, and find the checkpoint to continue from."""
        run, asked = Path(config.run_dir), str(config.ckpt_path)
        folder = run / "checkpoints"
        if not config.trainer.fast_dev_run and (asked != "last" or run.is_dir()):
            self._until_end.enter_context(run_lock(run))
        check_run_folder(run)
        if asked in ("None", "last") and _died_young(run, asked == "last"):
            config.ckpt_path = None
            if is_first_process():
                log.warning("%s ended before its first checkpoint was whole; it starts from the beginning", run)
            return
        config.ckpt_path = resolve_checkpoint(config.ckpt_path, folder)
        there = [each for each in ([folder] if holds_checkpoints(folder) else [run / MODEL]) if each.exists()]
        if config.ckpt_path is None and there and not config.overwrite:
            raise RunError(
                f"run_dir {config.run_dir} already holds a run ({there[0]}). Continue it with --ckpt_path last, choose "
                "another --run_dir, or start anew with --overwrite true"
            )
        if asked == "last" and is_first_process():
            finish_move(folder, Path(config.ckpt_path))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Add TensorBoard in the run folder and the callbacks of every run, unless the config says otherwise."""
        config = self._get(self.config_init, "trainer", default={})
        if config.get("logger") in (None, True):
            # Other subcommands log into a subfolder, and leave the curves and config.yaml of the training alone.
            folder = Path(config["default_root_dir"], "" if self.subcommand == "fit" else str(self.subcommand))
            kwargs["logger"] = TensorBoardLogger(folder, name="", version="")
        if self.subcommand != "fit":
            self.save_config_callback = None
        own = self.own_callbacks()
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in given):
            own.append(PhaseProgressBar())
        if config.get("logger") is not False:
            own.append(LearningRateMonitor(logging_interval="step"))
        kwargs["callbacks"] = [*given, *own]
        return super().instantiate_trainer(**kwargs)

    def own_callbacks(self) -> list[Any]:
        """Build the callbacks of every run besides its checkpoint.

        The ledger reads the random states that are restored before it.
        """
        inputs = RunInputs(self.config[self.subcommand].accept_changes)
        return [FailureReport(), inputs, RandomStates(), ForgetRepeatedSteps(), PredictionFile(), RunLedger()]

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a subcommand; a full disk ends it with the path and how to continue.

        Raises:
            RunError: when the disk is full.
        """
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise RunError(self._told_of_full_disk(error)) from error

    def _told_of_full_disk(self, error: Exception) -> str:
        run = self.config[self.subcommand].run_dir
        words = f"No space left on device: {path_behind(error) or run} could not be written"
        if self.subcommand != "fit":
            return f"{words}. Make room and start again"
        try:
            found = latest_valid(Path(run) / "checkpoints")
        except CheckpointError:
            return f"{words}. No checkpoint of the run is whole; make room and start it again"
        return f"{words}. {found} is whole; make room and continue with `prl resume {run}`"

    def after_fit(self) -> None:
        """Write the trained model where transformers can load it."""
        trainer = self.trainer
        if trainer.is_global_zero and not is_dry_run(trainer):
            folder = Path(trainer.default_root_dir) / MODEL
            with writing_folder(folder, keep=is_kept) as partial:
                self._whole_model().export(partial)
                write_card(partial, self.model.card_kind(partial), self.config[self.subcommand].as_dict())
            sys.stderr.write(ending(trainer, getattr(self.model, "iterations", None), folder) + "\n")
            self.model.after_export(folder)

    def _whole_model(self) -> TrainingModule:
        """Return the trained module; where weights are sharded, read it from the checkpoint that was just written."""
        if not self.model.sharding.cuts_weights:
            return self.model
        settings = self.config[self.subcommand].as_dict()
        return load_training_module(settings, latest_valid(Path(self.trainer.default_root_dir) / "checkpoints"))


def _died_young(run: Path, is_resumed: bool) -> bool:
    """Return whether a run has begun and left no checkpoint to continue from."""
    folder = run / "checkpoints"
    if holds_checkpoints(folder) or (run / MODEL).exists():  # a run with a model has ended
        return False
    cut_off = was_cut_off(folder)
    if cut_off or not is_resumed or any(folder.glob("batch-*")):
        return cut_off
    # Training writes config.yaml; a run that was killed before that has read its data, and nothing else is there.
    return (run / CONFIG).is_file() or (run / DATA_REPORT).is_file() and not foreign_files(run, BEGUN_FILES)


_NO_NEWS = (
    "Seed set to ",
    "GPU available: ",
    "TPU available: ",
    "💡 Tip: For seamless cloud logging",
    "Restored all states ",
)
"""Beginnings of Lightning's messages that repeat the config or advertise; PhaseProgressBar shows the device."""


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NO_NEWS)


def _quiet_lightning() -> None:
    # The order of our batches is a function of the seed and the batch number, so there is no loader state to save.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")  # prl logs by its own lines
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # rows are encoded once, in set-up
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # between Lightning and torch, not the user's
    warnings.filterwarnings("ignore", message="It is recommended to use .self.log")  # numbers are reduced already
    # prl changes arguments before Lightning sees them; further processes get the original command line.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    warnings.filterwarnings("ignore", message="Found .* module.s. in eval mode")  # reference and judge
    for module in (rank_zero, seed):
        logging.getLogger(module.__name__).addFilter(_is_news)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def run_stage(args: list[str] | None = None, cli: type[PrlCLI] = PrlCLI) -> PrlCLI:
    """Run LightningCLI with these arguments. The rights of a run folder are in prl/run_folder/trust.py.

    Raises:
        RenamedError: for class paths and settings of earlier versions.
        UntrustedRunError: when a run folder asks for more, and the arguments do not trust it.
    """
    _quiet_lightning()
    given, trusted = trust.take_flag(sys.argv[1:] if args is None else [str(each) for each in cast(Any, args)])
    check_names(given)
    if any(each == "-h" or each.partition("=")[0].endswith("help") for each in given):
        # The words of settings stand below them; reading them takes a second.
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with contextlib.nullcontext() if trusted else trust.guarding(given):
        return cli(
            TrainingModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False, "log_every_n_steps": 10, "enable_model_summary": False},
            parser_class=Parser,
            auto_configure_optimizers=False,  # a stage builds its own, over its parameter groups
            parser_kwargs={"prog": "prl", "description": "`prl --help` lists everything, with the small commands."},
            args=given,
        )
