"""Errors of a command line or config that the parser refuses: one message that names the setting, and what is meant."""

import dataclasses
import inspect
import re
import sys
import typing
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

ELSEWHERE = {
    "per_device_train_batch_size": "data.init_args.batch_size, of all processes together",
    "train_batch_size": "data.init_args.batch_size, of all processes together",
    "per_device_eval_batch_size": "data.init_args.validation_batch_size",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches (PPO: model.init_args.update.microbatch_size)",
    "num_train_epochs": "trainer.max_steps, or trainer.max_epochs",
    "total_episodes": "model.init_args.iterations, each of data.init_args.batch_size times sampling.per_prompt",
    "num_ppo_epochs": "model.init_args.update.epochs",
    "num_iterations": "model.init_args.update.epochs",
    "num_mini_batches": "model.init_args.update.minibatches",
    "num_generations": "model.init_args.sampling.per_prompt",
    "max_completion_length": "model.init_args.sampling.max_new_tokens",
    "response_length": "model.init_args.sampling.max_new_tokens",
    "temperature": "model.init_args.sampling.temperature",
    "beta": "model.init_args.kl.coef (pairwise PPO), beta of model.init_args.objective",
    "kl_coef": "model.init_args.kl.coef",
    "init_kl_coef": "model.init_args.kl.coef",
    "cliprange": "clip_range of model.init_args.objective",
    "clip_range": "clip_range of model.init_args.objective",
    "epsilon": "clip_range of model.init_args.objective",
    "lam": "gae_lambda of model.init_args.advantage",
    "vf_coef": "model.init_args.critic.value_coef",
    "learning_rate": "model.init_args.optimization.learning_rate",
    "lr": "model.init_args.optimization.learning_rate",
    "optim": "model.init_args.optimization, of AdamW",
    "optimizer": "model.init_args.optimization, of AdamW",
    "lr_scheduler": "model.init_args.optimization.schedule",
    "lr_scheduler_type": "model.init_args.optimization.schedule",
    "warmup_steps": "model.init_args.optimization.warmup",
    "weight_decay": "model.init_args.optimization.weight_decay",
    "max_grad_norm": "trainer.gradient_clip_val (pairwise PPO: model.init_args.update.max_grad_norm)",
    "bf16": "trainer.precision: bf16-mixed",
    "fp16": "trainer.precision: bf16-mixed",
    "output_dir": "run_dir",
    "logging_steps": "trainer.log_every_n_steps",
    "save_steps": "checkpoint.every_n_batches",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "trainer.val_check_interval",
    "resume_from_checkpoint": "ckpt_path: last",
    "seed": "seed_everything",
    "report_to": "trainer.logger",
    "model_name_or_path": "model.init_args.model.path (pairwise PPO: model.init_args.policy.path)",
    "dataset_name": "data.init_args.train.path",
    "use_peft": "lora of a model",
    "lora_r": "rank of a model's lora",
    "gradient_checkpointing": "gradient_checkpointing of a model",
}
"""Names of settings in transformers and TRL -> where prl has them."""

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|unrecognized arguments: (?:--)?([^\s=]+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NOT_IMPORTED = re.compile(r"(module '.+' has no attribute '.+'|No module named '.+'|not enough values to unpack)")
_WRONG = re.compile(r"Expected an? (.+?)\. Got value: (.*)")
_REFUSED = re.compile(r"argument --(\w+): invalid NoneType value")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_NAMED_TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>|\b(?:\w+\.)+(?=\w)")


class Parser(LightningArgumentParser):
    """LightningArgumentParser that tells a wrong setting in one line, and takes null for a nested setting."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse; a nested setting comes with its value as Python writes it."""
        if getattr(self, "_inner_parser", False) and args is not None:
            args = [f"{each[:-4]}null" if each.partition("=")[2] == "None" else each for each in args]
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with code 2 and one message; inside a class the outer parser does."""
        if not self.exit_on_error:
            super().error(message, ex)
        prog = self.prog if getattr(ex, "subcommand_parser", None) is None else ex.subcommand_parser.prog  # type: ignore[union-attr]
        sys.stderr.write(f"error: {explained(str(message))}\n(all settings: {prog.replace(' [options]', '')} --help)\n")
        self.exit(2)
        raise AssertionError  # which mypy asks for


def explained(message: str) -> str:
    """Reduce an error of jsonargparse, which lists each type that a value is not of, to the setting that is wrong."""
    classes = _CLASS.findall(message)
    found = _Place(_KEY.findall(message), classes)
    if unknown := _UNKNOWN.search(message):
        return found.unknown(unknown.group(1) or unknown.group(2))
    if classes and (reason := _NOT_IMPORTED.search(message)):
        return found.no_class(classes[-1], reason.group(1))
    if refused := _REFUSED.search(message):
        return found.unknown(refused.group(1))
    if wrong := _WRONG.search(message):
        return f"{found.setting} is {wrong.group(2)!r}; expected {_plain(wrong.group(1))}"
    if named := _NO_CLASS.search(message):
        types = _SUBTYPES.findall(message)
        return found.no_class(named.group(1), f"expected {_plain(types[-1])}" if types else "")
    if "arguments are required" in message and "model" in message:
        return f"{message.replace('fit.', '')}: give the settings of a run, --config FILE (configs/quickstart has some)"
    return message


def _plain(types: str) -> str:
    names = _NAMED_TYPE.sub(lambda found: found.group(1) or "", types)
    choice = re.fullmatch(r"Literal\[(.*)\]", names)
    names = f"one of {choice.group(1)}".replace("'", "") if choice else names
    return names.replace("NoneType", "null").replace(", null", " or null")


class _Place:
    """Setting that is wrong, from the keys and the classes on the way to it, outermost first."""

    def __init__(self, keys: list[str], classes: list[str]) -> None:
        self.classes = classes
        self.setting = ".init_args.".join(keys)

    def unknown(self, name: str) -> str:
        """Tell that there is no setting of this name, and which may be meant."""
        last = name.rpartition(".")[2]
        where = f"{self.setting}.init_args.{name}" if self.classes else name
        of = f" of {self.classes[-1].rpartition('.')[2]}" if self.classes else ""
        text = f"unrecognized setting {where}{of}"
        owner = self.classes[-1] if self.classes else _OWNERS.get(name.partition(".")[0])
        beside = _settings_at(owner, name if self.classes else last) if owner else [*_OWNERS, *_TOP]
        stem = where.rpartition(".")[0]
        near = get_close_matches(last, beside, 1, 0.6)
        # A slip beside the right name is one; a name of another library is told its place, unless that is this place.
        meant = ", ".join(
            each for each in ELSEWHERE.get(last, "").split(", ") if each.split(" of ")[-1] != self.setting
        )
        if meant and not get_close_matches(last, near, 1, 0.85):
            return f"{text}; in prl it is {meant}"
        return f"{text}; did you mean {stem}{'.' if stem else ''}{near[0]}?" if near else text

    def no_class(self, name: str, reason: str) -> str:
        """Tell that there is no class of this name, and which may be meant."""
        package, _, short = name.rpartition(".")
        # Short names are those of the classes that prl imports for it.
        known = [each for module in ([package] if package else _SHORT) for each in _classes_of(module)]
        near = get_close_matches(short, known, 1, 0.6)
        meant = f"; did you mean {package}{'.' if package else ''}{near[0]}?" if near else ""
        about = f" ({reason}; write its whole path, package.module.Class)" if reason and not near else ""
        root = package.partition(".")[0]
        if root and root in reason and (Path(f"{root}.py").is_file() or Path(root).is_dir()):
            about = f" ({reason}; it lies in this folder, where Python does not look: PYTHONPATH=. prl ...)"
        return f"{self.setting}{': ' if self.setting else ''}there is no class {name}{meant}{about}"


_SHORT = ("lightning_modules", "datamodules", "lightning.pytorch.callbacks")
_TOP = (
    "run_dir",
    "overwrite",
    "accept_changes",
    "config",
    "print_config",
    "ckpt_path",
    "seed_everything",
    "data",
    "model",
)
_OWNERS = {
    "trainer": "lightning.pytorch.Trainer",
    "checkpoint": "lightning_modules.callbacks.RunCheckpoint",
}


def _classes_of(module: str) -> list[str]:
    if module.partition(".")[0] not in ("prl", "lightning_modules", "datamodules", "lightning"):
        return []  # a suggestion is not worth running code of somebody else
    try:
        found = import_module(module)
    except ImportError:
        return []
    return [name for name, each in vars(found).items() if inspect.isclass(each)]


def _settings_at(path: str, name: str) -> list[str]:
    """List the settings beside a dotted one of a class."""
    module, _, short = path.rpartition(".")
    kind: Any = getattr(sys.modules.get(module), short, None)
    for part in name.split(".")[:-1]:
        hint = typing.get_type_hints(kind.__init__).get(part) if inspect.isclass(kind) else None
        kind = next((each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)), None)
    return list(inspect.signature(kind).parameters) if inspect.isclass(kind) else []
