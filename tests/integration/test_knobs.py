"""Every setting of pairwise PPO does something: turned away from its default, training ends elsewhere or not at all."""

import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import Trainer, seed_everything

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from prl.config import PPO, JudgeGate, ModelSource, Optimization, Reward, Sampling
from prl.data import DataSource
from prl.judge import GenerativeJudge
from prl.judge.gate import JudgeRefusedError
from prl.judge.passport import describe_judge, write_passport
from tests.integration.runs import Home

SETTINGS = {"sampling": Sampling, "reward": Reward, "ppo": PPO, "optimization": Optimization}
BASE: dict[str, Any] = {
    "sampling": Sampling(max_new_tokens=8),
    "reward": Reward(missing_eos_value=1.0),
    "ppo": PPO(epochs=2, minibatches=2, microbatch_size=3),
    "optimization": Optimization(learning_rate=1e-2),
}


@dataclass(frozen=True)
class Turn:
    """One setting away from the base, and others that it needs to have an effect (they are in both runs)."""

    value: Any
    where: Literal["policy", "critic"] = "policy"
    needs: tuple[tuple[str, Any], ...] = ()


AS_LOSS = (("reward.kl_estimator", "k2"), ("reward.kl_placement", "loss"))

# The table: setting -> how it is turned. `where` is the network in which the effect is looked for.
TURNS: dict[str, list[Turn]] = {
    "sampling.max_new_tokens": [Turn(5)],
    "sampling.temperature": [Turn(0.7)],
    "sampling.per_prompt": [Turn(2)],
    "reward.mapping": [Turn("mean_probability"), Turn("centered"), Turn("log_odds")],
    "reward.max_log_odds": [Turn(0.1, needs=(("reward.mapping", "log_odds"),))],
    "reward.missing_eos": [Turn("keep"), Turn("replace")],
    "reward.missing_eos_value": [Turn(0.3), Turn(0.3, needs=(("reward.missing_eos", "replace"),))],
    "reward.overlong_penalty": [Turn(0.5)],
    "reward.overlong_buffer": [Turn(2, needs=(("reward.overlong_penalty", 0.5),))],
    "reward.kl_coef": [Turn(0.5), Turn(0.5, needs=AS_LOSS)],
    "reward.kl_estimator": [Turn("k2"), Turn("k3"), Turn("k3", needs=AS_LOSS)],
    "reward.kl_placement": [Turn("loss", needs=(("reward.kl_estimator", "k2"),))],
    "reward.kl_target": [Turn(0.01, needs=(("reward.kl_horizon", 20),))],
    "reward.kl_horizon": [Turn(20, needs=(("reward.kl_target", 0.01),))],
    "ppo.epochs": [Turn(3)],
    "ppo.minibatches": [Turn(3)],
    "ppo.microbatch_size": [Turn(4)],
    "ppo.gamma": [Turn(0.9)],
    "ppo.gae_lambda": [Turn(0.5), Turn(0.5, "critic")],
    "ppo.critic_lambda": [Turn(0.3, "critic")],
    "ppo.length_adaptive_alpha": [Turn(0.5)],
    "ppo.whiten_advantages": [Turn(False)],
    "ppo.clip_range": [Turn(0.01)],
    "ppo.clip_range_high": [Turn(0.01)],
    "ppo.dual_clip": [Turn(1.01)],
    "ppo.value_clip_range": [Turn(0.01, "critic"), Turn(None, "critic")],
    "ppo.value_coef": [Turn(3.0)],
    "ppo.entropy_coef": [Turn(0.1)],
    "ppo.aggregation": [Turn("sequence_mean")],
    "ppo.stop_kl": [Turn(1e-6)],
    "ppo.max_grad_norm": [Turn(0.01)],
    "ppo.critic_warmup": [Turn(1)],
    "ppo.critic_warmup_until": [Turn(-1e9, needs=(("ppo.critic_warmup", 1),))],
    "optimization.learning_rate": [Turn(3e-3)],
    "optimization.weight_decay": [Turn(0.1)],
    "optimization.beta1": [Turn(0.5)],
    "optimization.beta2": [Turn(0.5)],
    "optimization.schedule": [Turn("linear"), Turn("cosine")],
    "optimization.warmup": [Turn(2)],
}


# Turned where responses can have thoughts, which random models do not write.
ELSEWHERE = {"reward.judge_thoughts": "tests/unit/data/test_turns.py"}

# Sampling habits that cannot be trained: setting -> a value that is refused.
REFUSED: dict[str, Any] = {
    **{"top_k": 50, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1},
    **{"no_repeat_ngram_size": 3, "min_new_tokens": 4, "num_beams": 4},
}


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
    "judge_gate.max_layout_gap": 0.001,
    "judge_gate.min_pairs": 200,
}


def turned(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    group, field = name.split(".")
    return {**settings, group: replace(settings[group], **{field: value})}


class Runs:
    """Two iterations with given settings; each set is run once."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.judge = GenerativeJudge.from_pretrained(str(home.judge))  # frozen, so all runs can share it
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    def __call__(self, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        key = repr(settings)
        if key not in self.weights:
            self.weights[key] = self.train(settings)
        return self.weights[key]

    def train(self, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        seed_everything(0, verbose=False)
        policy = ModelSource(path=str(self.home.policy))
        module = PairwisePPOModule(policy, self.judge, iterations=2, max_prompt_length=64, **settings)
        source = DataSource(str(self.home.data("prompts.train")))
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            barebones=True,
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
    known = {f"{group}.{field.name}" for group, kind in SETTINGS.items() for field in fields(kind)}
    assert known - {f"sampling.{name}" for name in REFUSED} - ELSEWHERE.keys() == set(TURNS)
    for name, path in ELSEWHERE.items():
        assert name.partition(".")[2] in (Path(__file__).parents[2] / path).read_text()
    assert {f"judge_gate.{field.name}" for field in fields(JudgeGate)} == set(GATE_TURNS)


@pytest.mark.parametrize("name", REFUSED)
def test_sampling_that_makes_log_probabilities_wrong_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"sampling.{name} is {REFUSED[name]}.*log-probabilities .* would be wrong"):
        Sampling(**{name: REFUSED[name]})


@pytest.fixture
def passing_judge(home: Home, tmp_path: Path) -> GenerativeJudge:
    """Make a judge whose passport is within all limits, and perfect in nothing."""
    folder = shutil.copytree(home.judge, tmp_path / "judge")
    means = {"accuracy": 0.8, "accuracy_shorter_wins": 0.8, "order_gap": 0.1, "flip_rate": 0.1}
    means |= {"first_position_rate": 0.55, "cyclic_triples": 0.1}
    report = {name: {"mean": mean, "low": mean, "high": mean, "num": 100} for name, mean in means.items()}
    report |= {"num_pairs": 100, "num_ties": 0, "ece": 0.1, "canary_rate": 0.1, "layout_gap": 0.01}
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
    group, field = name.split(".")
    assert getattr(settings[group], field) != turn.value
    # Adam's steps are as large as the learning rate, 1e-2; rounding alone leaves differences of about 1e-7.
    assert distance(runs(settings), runs(turned(settings, name, turn.value)), turn.where) > 1e-4
