"""Every setting of pairwise PPO does something: turned away from its default, training ends elsewhere or not at all."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import Trainer, seed_everything

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from prl.advantages.gae import GAE
from prl.config import CriticSettings, JudgeGate, KLPenalty, ModelSource, Optimization, Sampling, Update
from prl.data import DataSource
from prl.judge import GenerativeJudge
from prl.judge.gate import JudgeRefusedError
from prl.judge.passport import describe_judge, write_passport
from prl.objectives.policy.ppo import PPO
from prl.rewards.shapers.missing_eos import MissingEOS
from prl.rewards.shapers.overlong import Overlong
from prl.rewards.shapers.verdicts import CenteredProbability, LogOdds, MeanProbability
from prl.rollouts.filters.unfinished import DropUnfinished
from tests.integration.runs import Home

SETTINGS: dict[str, type] = {
    **{"sampling": Sampling, "kl": KLPenalty, "update": Update, "critic": CriticSettings, "optimization": Optimization},
    **{"advantage": GAE, "objective": PPO},
}
METHODS: dict[str, Callable[[], Any]] = {
    "MissingEOS": MissingEOS,
    "replaced": lambda: MissingEOS(replace=True),
    "Overlong": lambda: Overlong(0.5),
    "MeanProbability": MeanProbability,
    "CenteredProbability": CenteredProbability,
    "LogOdds": LogOdds,
    "DropUnfinished": DropUnfinished,
}
"""Shapers and filters by the names that a turn gives them; their settings have tests of their own."""
Settings = dict[str, dict[str, Any] | list[str]]
BASE: Settings = {
    "sampling": {"max_new_tokens": 8},
    "shaping": ["MissingEOS"],
    "filters": [],
    "update": {"epochs": 2, "minibatches": 2, "microbatch_size": 3},
    "optimization": {"learning_rate": 1e-2},
    **{name: {} for name in ("kl", "critic", "advantage", "objective")},
}


@dataclass(frozen=True)
class Turn:
    """One setting away from the base, and others that it needs to have an effect (they are in both runs)."""

    value: Any
    where: Literal["policy", "critic"] = "policy"
    needs: tuple[tuple[str, Any], ...] = ()


AS_LOSS = (("kl.estimator", "k2"), ("kl.placement", "loss"))

# The table: setting -> how it is turned. `where` is the network in which the effect is looked for.
TURNS: dict[str, list[Turn]] = {
    "sampling.max_new_tokens": [Turn(5)],
    "sampling.temperature": [Turn(0.7)],
    "sampling.per_prompt": [Turn(2)],
    "shaping": [
        *(Turn([]), Turn(["replaced"]), Turn(["MissingEOS", "Overlong"]), Turn(["MeanProbability", "MissingEOS"])),
        *(Turn(["CenteredProbability", "MissingEOS"]), Turn(["LogOdds", "MissingEOS"])),
    ],
    "filters": [Turn(["DropUnfinished"])],
    "kl.coef": [Turn(0.5), Turn(0.5, needs=AS_LOSS)],
    "kl.estimator": [Turn("k2"), Turn("k3"), Turn("k3", needs=AS_LOSS)],
    "kl.placement": [Turn("loss", needs=(("kl.estimator", "k2"),))],
    "kl.target": [Turn(0.01, needs=(("kl.horizon", 20),))],
    "kl.horizon": [Turn(20, needs=(("kl.target", 0.01),))],
    "update.epochs": [Turn(3)],
    "update.minibatches": [Turn(3)],
    "update.microbatch_size": [Turn(4)],
    "update.aggregation": [Turn("sequence_mean")],
    "update.stop_kl": [Turn(1e-6)],
    "update.max_grad_norm": [Turn(0.01)],
    "update.packed": [Turn("off", needs=(("sampling.per_prompt", 2),))],  # rows are dealt otherwise
    "advantage.gamma": [Turn(0.9)],
    "advantage.gae_lambda": [Turn(0.5), Turn(0.5, "critic")],
    "advantage.critic_lambda": [Turn(0.3, "critic")],
    "advantage.length_adaptive_alpha": [Turn(0.5)],
    "advantage.whiten": [Turn(False)],
    "objective.clip_range": [Turn(0.01)],
    "objective.clip_range_high": [Turn(0.01)],
    "objective.dual_clip": [Turn(1.01)],
    "objective.entropy_coef": [Turn(0.1)],
    "critic.kind": [Turn("shared")],
    "critic.learning_rate": [Turn(1e-3, "critic")],
    "critic.value_clip_range": [Turn(0.01, "critic"), Turn(None, "critic")],
    "critic.value_coef": [Turn(3.0)],
    "critic.warmup": [Turn(1)],
    "critic.warmup_until": [Turn(-1e9, needs=(("critic.warmup", 1),))],
    "optimization.learning_rate": [Turn(3e-3)],
    "optimization.weight_decay": [Turn(0.1)],
    "optimization.beta1": [Turn(0.5)],
    "optimization.beta2": [Turn(0.5)],
    "optimization.schedule": [Turn("linear"), Turn("cosine")],
    "optimization.warmup": [Turn(2)],
}


# Turned where there is another model than the policy to start from.
ELSEWHERE = {"critic.model": "tests/integration/test_cli_stages.py"}


# The gate decides whether training starts: setting -> the value that stops a run which the base lets through.
GATE = JudgeGate(mode="refuse")
GATE_TURNS: dict[str, Any] = {
    "judge_gate.mode": "off",
    "judge_gate.min_accuracy": 0.9,
    "judge_gate.min_shorter_wins_accuracy": 0.9,
    "judge_gate.max_ece": 0.01,
    "judge_gate.max_order_gap": 0.01,
    "judge_gate.max_flip_rate": 0.01,
    "judge_gate.max_first_position_bias": 0.01,
    "judge_gate.max_cyclic_rate": 0.01,
    "judge_gate.max_canary_rate": 0.01,
    "judge_gate.max_held_out_attack_rate": 0.01,
    "judge_gate.max_layout_gap": 0.001,
    "judge_gate.min_pairs": 200,
    "judge_gate.min_kappa": 0.9,
    "judge_gate.max_prompt_overlap": 0.01,
    "judge_gate.same_base": False,
}


def turned(settings: Settings, name: str, value: Any) -> Settings:
    group, _, field = name.partition(".")
    return {**settings, group: {**settings[group], field: value} if field else value}  # type: ignore[dict-item]


def value_of(settings: Settings, name: str) -> Any:
    group, _, field = name.partition(".")
    given: Any = settings[group]
    if not field:
        return given
    return given.get(field, signature(SETTINGS[group]).parameters[field].default)


def built(settings: Settings) -> dict[str, Any]:
    lists = {name: [METHODS[each]() for each in settings[name]] for name in ("shaping", "filters")}
    return {**lists, **{name: kind(**settings[name]) for name, kind in SETTINGS.items()}}  # type: ignore[arg-type]


class Runs:
    """Two iterations with given settings; each set is run once."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.judge = GenerativeJudge.from_pretrained(str(home.judge))  # frozen, so all runs can share it
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    def __call__(self, settings: Settings) -> dict[str, torch.Tensor]:
        key = repr(settings)
        if key not in self.weights:
            self.weights[key] = self.train(settings)
        return self.weights[key]

    def train(self, settings: Settings) -> dict[str, torch.Tensor]:
        seed_everything(0, verbose=False)
        policy = ModelSource(path=str(self.home.policy))
        module = PairwisePPOModule(policy, self.judge, iterations=2, max_prompt_length=64, **built(settings))
        source = DataSource(str(self.home.data("prompts.train")))
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            barebones=True,
            limit_val_batches=0,
            use_distributed_sampler=False,
            default_root_dir=self.folder,
        )
        trainer.fit(module, datamodule=PromptDataModule(source, source, batch_size=9))
        return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def runs(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(home, tmp_path_factory.mktemp("runs"))


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], where: str) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a if name.startswith(f"{where}."))


CASES = [(name, turn) for name, turns in TURNS.items() for turn in turns]


def test_every_setting_is_in_the_table() -> None:
    known = {f"{group}.{name}" for group, kind in SETTINGS.items() for name in signature(kind).parameters}
    assert (known | {"shaping", "filters"}) - ELSEWHERE.keys() == set(TURNS)
    for name, path in ELSEWHERE.items():
        assert name in (Path(__file__).parents[2] / path).read_text()
    assert {f"judge_gate.{field.name}" for field in fields(JudgeGate)} == set(GATE_TURNS)


@pytest.fixture
def passing_judge(home: Home, tmp_path: Path) -> GenerativeJudge:
    """Make a judge whose passport is within all limits, and perfect in nothing."""
    folder = shutil.copytree(home.judge, tmp_path / "judge")
    means = {"accuracy": 0.8, "accuracy_shorter_wins": 0.8, "order_gap": 0.1, "flip_rate": 0.1}
    means |= {"first_position_rate": 0.55, "cyclic_triples": 0.1}
    report = {name: {"mean": mean, "low": mean, "high": mean, "num": 100} for name, mean in means.items()}
    report |= {"num_pairs": 100, "num_ties": 0, "ece": 0.1, "canary_rate": 0.1, "layout_gap": 0.01}
    report |= {"held_out_attack_rate": 0.1, "agreement": {"kappa": {"mean": 0.8, "low": 0.8, "high": 0.8, "num": 100}}}
    write_passport(folder, {"format": 1, "judge": describe_judge(folder), "data": {}, "report": report})
    return GenerativeJudge(str(folder))


@pytest.mark.parametrize("name", GATE_TURNS)
def test_turning_a_setting_of_the_gate_decides_whether_training_starts(
    name: str, home: Home, passing_judge: GenerativeJudge
) -> None:
    def start(gate: JudgeGate) -> None:
        PairwisePPOModule(ModelSource(path=str(home.policy)), passing_judge, judge_gate=gate).configure_model()

    field = name.removeprefix("judge_gate.")
    strict = replace(GATE, **{field: GATE_TURNS[name]})
    if field == "mode":
        refused, let_through = replace(GATE, min_accuracy=0.9), replace(strict, min_accuracy=0.9)
    else:
        refused, let_through = strict, GATE
    with pytest.raises(JudgeRefusedError, match="does not pass the gate"):
        start(refused)
    start(let_through)


def test_equal_settings_give_equal_weights(runs: Runs) -> None:
    again, first = runs.train(BASE), runs(BASE)
    assert distance(again, first, "policy") == distance(again, first, "critic") == 0


@pytest.mark.parametrize(("name", "turn"), CASES, ids=[f"{name}-{turn.value}" for name, turn in CASES])
def test_turning_a_setting_changes_what_is_learnt(name: str, turn: Turn, runs: Runs) -> None:
    settings = BASE
    for needed, value in turn.needs:
        settings = turned(settings, needed, value)
    assert value_of(settings, name) != turn.value
    # Adam's steps are as large as the learning rate, 1e-2; rounding alone leaves differences of about 1e-7.
    assert distance(runs(settings), runs(turned(settings, name, turn.value)), turn.where) > 1e-4
