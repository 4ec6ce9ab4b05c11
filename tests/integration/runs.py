"""Tiny runs of the command line: a small world with its models, overrides for speed, and what a run leaves behind."""

import json
import os
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback
from transformers import AutoModelForSequenceClassification

from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.files import LAST
from prl.checkpoints.position import batches_done
from prl.cli.app import PrlCLI, run_stage
from prl.judge import ComparisonEncoder, JudgeTemplate
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.files import save_judge
from prl.quickstart.world import WorldSizes, write_world
from tests.helpers.tiny import LLAMA, tiny_model, tiny_tokenizer, write_tiny_model

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = {
    "supervised": "demonstrations",
    "generative_reward": "pairs",
    "bradley_terry": "pairs",
    "preference": "pairs",
    "pairwise_ppo": "prompts",
}
"""Stage (the name of its config) -> the kind of rows it learns from."""
TEMPLATE = JudgeTemplate("{{ prompt }}\nA:{{ response_a }}\nB:{{ response_b }}\n>", chat=False)


@dataclass(frozen=True)
class Home:
    """A folder with a world, its tokenizer, and one random model for each role."""

    root: Path

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def policy(self) -> Path:
        return self.root / "policy"

    @property
    def judge(self) -> Path:
        return self.root / "judge"

    @property
    def bradley_terry(self) -> Path:
        return self.root / "bradley_terry"

    @property
    def multi_head(self) -> Path:
        return self.root / "multi_head"

    def data(self, name: str) -> Path:
        return self.root / "world" / f"{name}.jsonl"

    def arguments(self, stage: str, run: Path, *overrides: str, verb: str = "fit", config: Path | None = None) -> list:
        """Shrink the shipped config of a stage; later overrides win."""
        args = [verb, "--config", str(config or CONFIGS / "quickstart" / f"{stage}.yaml"), "--run_dir", str(run)]
        for split in ("train", "validation"):
            args += [f"--data.init_args.{split}.path", str(self.data(f"{DATA[stage]}.{split}"))]
        args += ["--data.init_args.batch_size", "8", "--data.init_args.validation_batch_size", "5"]
        args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        args += ["--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "3"]
        args += ["--checkpoint.every_n_batches", "2"]
        model = "--model.init_args"
        if stage == "supervised":
            args += [f"{model}.model.config", json.dumps(LLAMA), f"{model}.model.tokenizer", str(self.tokenizer)]
        elif stage == "pairwise_ppo":
            args += [f"{model}.policy.path", str(self.policy), f"{model}.reward.init_args.path", str(self.judge)]
            args += [f"{model}.iterations", "4", f"{model}.sampling.max_new_tokens", "5"]
            args += [
                f"{model}.update.microbatch_size",
                "3",
                f"{model}.update.epochs",
                "2",
                f"{model}.critic.warmup",
                "1",
            ]
            args += [f"{model}.optimization.learning_rate", "3e-3", f"{model}.optimization.warmup", "0"]
        else:
            args += [f"{model}.model.path", str(self.policy)]
        if stage == "generative_reward":
            args += ["--data.init_args.attacks", "null"]  # so that its rows are those of the file
        if stage != "pairwise_ppo":
            args += ["--trainer.max_steps", "4", f"{model}.optimization.warmup", "0"]
        return [*args, *overrides]

    def run(self, stage: str, run: Path, *overrides: str, verb: str = "fit", config: Path | None = None) -> PrlCLI:
        """Run a stage through the command line, in this process."""
        return run_stage(self.arguments(stage, run, *overrides, verb=verb, config=config))


SMALL_WORLD = WorldSizes(
    train_demonstrations=32,
    validation_demonstrations=8,
    train_pairs=32,
    validation_pairs=9,
    train_prompts=32,
    validation_prompts=8,
)
"""Four batches of eight rows in an epoch."""


def build_home(root: Path) -> Home:
    home = Home(root)
    write_world(root / "world", seed=0, sizes=SMALL_WORLD)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(home.tokenizer)
    write_tiny_model(home.policy, seed=1, tie_word_embeddings=True)
    save_judge(home.judge, tiny_model(2), tokenizer, ComparisonEncoder(tokenizer, TEMPLATE, 64))
    scalar = tiny_model(3, AutoModelForSequenceClassification, num_labels=1)
    save_bradley_terry(home.bradley_terry, scalar, tokenizer, 64)
    heads = tiny_model(4, AutoModelForSequenceClassification, num_labels=2)
    named: Any = {"head_weights": (1.0, 0.0), "head_names": ("correctness", "length")}
    save_bradley_terry(home.multi_head, heads, tokenizer, 64, **named)
    return home


# ---- what a run leaves behind


def last_checkpoint(run: Path) -> dict[str, Any]:
    return sharded_files.read(run / "checkpoints" / LAST)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested values differ in any bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a!r} and {b!r}"]


def state_of(run: Path) -> dict[str, Any]:
    """All that decides how training would go on: weights, optimizer, schedule, KL coefficient, random states."""
    checkpoint = last_checkpoint(run)
    names = ["state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "run_state"]
    state = {name: checkpoint[name] for name in names}
    state["random_states"] = next(v for k, v in checkpoint["callbacks"].items() if k.startswith("RandomStates"))
    return state


# ---- callbacks, for `--trainer.callbacks+=`


def callback(kind: type[Callback], **arguments: Any) -> str:
    """Write a callback for the command line."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    return "--trainer.callbacks+=" + json.dumps({"class_path": name, "init_args": arguments})


class InterruptedRun(RuntimeError):
    """The run was ended by a test."""


class Interrupt(Callback):
    """Ends a run at a chosen moment, by an exception or by a signal.

    Args:
        batch: training batches done at that moment.
        moment: batch_end; rollout, judge, score, update or backward (inside the next batch); validation; saving (of a
            checkpoint).
        times: how often the moment must come before it counts: the backward pass of an iteration has many.
        number: a signal that this process gets instead of an exception.
        rank: the only rank that is interrupted.
    """

    def __init__(
        self,
        batch: int,
        moment: Literal[
            "batch_end", "rollout", "judge", "score", "update", "backward", "validation", "saving"
        ] = "batch_end",
        times: int = 1,
        number: int | None = None,
        rank: int = 0,
    ) -> None:
        self.batch, self.moment, self.times, self.number, self.rank = batch, moment, times, number, rank

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        begin = pl_module.begin_phase

        def begin_and_reach(name: str) -> None:
            begin(name)
            if not trainer.validating:
                self._reached(trainer, name)

        pl_module.begin_phase = begin_and_reach

    def _reached(self, trainer: Any, moment: str) -> None:
        if moment != self.moment or batches_done(trainer) != self.batch or trainer.global_rank != self.rank:
            return
        self.times -= 1
        if self.times:
            return
        if self.number is not None:
            os.kill(os.getpid(), self.number)
            return
        raise InterruptedRun(f"{moment} {self.batch}")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._reached(trainer, "batch_end")

    def on_after_backward(self, trainer: Any, *_: Any) -> None:
        self._reached(trainer, "backward")

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self._reached(trainer, "validation")

    def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
        self._reached(trainer, "saving")


class FirstWeights(Callback):
    """Remembers every parameter as it is when training starts."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = {name: p.detach().clone() for name, p in pl_module.named_parameters(remove_duplicate=False)}


class Numbers(Callback):
    """Remembers what was logged at each training batch and each validation."""

    def __init__(self) -> None:
        self.training: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.training.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self.validation.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


class InTurns(Callback):
    """Samples pass by pass, then with the weights put together, and so on."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        actors = pl_module.actors
        sample, ways = actors._sample, cycle(["never", "always"])

        def in_turns(*args: Any) -> Any:
            actors.gather = next(ways)
            return sample(*args)

        actors._sample = in_turns


def find_callback(trainer: Any, kind: type) -> Any:
    return next(c for c in trainer.callbacks if isinstance(c, kind))
