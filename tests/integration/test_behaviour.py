"""What pairwise PPO must and must not do, seen from outside: with planted judges and whole runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.base import TrainingModule
from prl.quickstart.world import WorldSizes, write_world
from prl.rewards import ScalarReward
from prl.types import Experience
from tests.helpers.judge_server import TEMPLATE, serving
from tests.helpers.tiny import LLAMA
from tests.integration.runs import FirstWeights, Home, Numbers, callback, differences, find_callback, state_of

MODEL = "--model.init_args."


def planted(kind: str, **arguments: Any) -> tuple[str, ...]:
    judge = {"class_path": f"tests.helpers.tiny.{kind}", "init_args": arguments}
    return (f"{MODEL}reward", json.dumps(judge))


def moved(trainer: Any, module: Any) -> list[str]:
    before = find_callback(trainer, FirstWeights).weights
    return [name for name, p in module.named_parameters(remove_duplicate=False) if not torch.equal(p, before[name])]


# ---- unchanged weights


@pytest.mark.parametrize(
    ("critic", "temperature", "per_prompt"),
    [("own", "0.7", 1), pytest.param("shared", "1.0", 1, marks=pytest.mark.slow), ("own", "0.7", 4)],
)
def test_without_learning_the_ratio_is_exactly_one(
    critic: str, temperature: str, per_prompt: int, home: Home, tmp_path: Path, experiences: list[Experience]
) -> None:
    cli = home.run(
        *("pairwise_ppo", tmp_path, callback(Numbers), callback(FirstWeights), f"{MODEL}critic.kind", critic),
        *(f"{MODEL}optimization.learning_rate", "0", f"{MODEL}critic.learning_rate", "0"),
        *(f"{MODEL}critic.warmup", "0", f"{MODEL}update.epochs", "3", f"{MODEL}iterations", "2"),
        *("--data.init_args.batch_size", str(16 // per_prompt), f"{MODEL}sampling.max_new_tokens", "20"),
        *(f"{MODEL}sampling.temperature", temperature, f"{MODEL}sampling.per_prompt", str(per_prompt)),
        *(f"{MODEL}update.packed", "on", f"{MODEL}update.microbatch_size", "8" if per_prompt > 1 else "3"),
    )
    module = cli.model
    for sharing in module.actors.prompt_sharing:
        assert (sharing.tokens.cached_token_fraction > 0.1) == (per_prompt > 1)
    for experience in experiences:
        rollout = experience.rollout
        assert len(set(rollout.prompt_mask.sum(1).tolist())) > 1
        assert len(set(rollout.response_mask.sum(1).tolist())) > 1
        for rows in experience.microbatches:
            part = experience.select(rows)
            logprobs, values, _ = module.actors.evaluate(part.rollout)
            assert torch.equal(logprobs, part.old_logprobs)
            assert torch.equal(values, part.values)
            assert torch.equal(module.actors.reference_logprobs(part.rollout), part.ref_logprobs)
    assert moved(cli.trainer, module) == []
    for numbers in find_callback(cli.trainer, Numbers).training:
        for name in ("policy/clip_frac_low", "policy/clip_frac_high", "policy/approx_kl", "value/clip_frac", "kl/k1"):
            assert numbers[name] == 0, name
        # A sum of weights 1 / tokens in float32: a hundred tokens round a hundred times.
        assert numbers["policy/ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert numbers["policy/first_ratio"] == pytest.approx(1, abs=1e-5)
        assert numbers["policy/num_steps"] == 6


# ---- learning


@pytest.fixture(scope="module")
def speaker(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a policy until it ends its responses after a few characters."""
    folder = tmp_path_factory.mktemp("speaker")
    write_world(folder / "world", 0, WorldSizes(1000, 8, 8, 8, 8, 8))
    model = {**LLAMA, "initializer_range": 0.02, "hidden_size": 32, "intermediate_size": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prl"])
        home.run(
            *("supervised", folder, "--trainer.max_steps", "120", "--trainer.limit_val_batches", "0"),
            *("--data.init_args.train.path", str(folder / "world" / "demonstrations.train.jsonl")),
            *("--data.init_args.batch_size", "32", "--checkpoint.every_n_batches", "0"),
            *(f"{MODEL}model.config", json.dumps(model), f"{MODEL}optimization.learning_rate", "1e-2"),
        )
    return folder / "model"


def num_chars(prompt: Any, response: str, row: dict[str, Any]) -> float:
    """Reward length: the longer, the better."""
    return float(len(response))


class LengthScalar(ScalarReward):
    """A scalar reward model that has learnt lengths."""

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.folder = None

    def model_source(self) -> None:
        return None

    def load(self) -> None:
        return

    def rewards(self, prompts: list[Any], responses: list[str]) -> torch.Tensor:
        return torch.tensor([float(len(text)) for text in responses])


LENGTH = {"class_path": "tests.helpers.tiny.LengthJudge"}
RULE = {"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.num_chars"}}
LEARNING: dict[str, tuple[dict[str, Any], str]] = {
    "judge, seed 0": (LENGTH, "0"),
    "judge, seed 1": (LENGTH, "1"),
    "rule": (RULE, "0"),
    "scalar": ({"class_path": f"{__name__}.LengthScalar"}, "0"),
    "mix": (
        {
            "class_path": "WeightedReward",
            "init_args": {"sources": {"a": LENGTH, "b": RULE}, "weights": {"a": 0.5, "b": 0.1}},
        },
        "0",
    ),
    "server": (
        {
            "class_path": "EndpointJudge",
            "init_args": {"model": "m", "template": {"text": TEMPLATE.text, "chat": False}},
        },
        "0",
    ),
}
"""Where the reward comes from, and the seed."""
QUICK = {"judge, seed 0"}


@pytest.mark.parametrize(
    "source",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in LEARNING],
)
def test_policy_learns_to_answer_at_length_where_length_wins(
    source: str, home: Home, speaker: Path, tmp_path: Path
) -> None:
    judge, seed = LEARNING[source]
    with serving() as server:
        if source == "server":
            judge = {**judge, "init_args": {**judge["init_args"], "base_url": server.url}}
        learn(home, speaker, tmp_path, judge, seed)


def learn(home: Home, speaker: Path, tmp_path: Path, judge: dict[str, Any], seed: str) -> None:
    limit = 8
    cli = home.run(
        *("pairwise_ppo", tmp_path, callback(Numbers), f"{MODEL}reward", json.dumps(judge), "--seed_everything", seed),
        *(f"{MODEL}policy.path", str(speaker), f"{MODEL}sampling.max_new_tokens", str(limit)),
        *(f"{MODEL}shaping", "[]", f"{MODEL}kl.coef", "0", f"{MODEL}iterations", "25"),
        *(f"{MODEL}update.microbatch_size", "16", f"{MODEL}optimization.learning_rate", "1e-2"),
        *("--data.init_args.batch_size", "32", "--trainer.val_check_interval", "25"),
    )
    numbers = find_callback(cli.trainer, Numbers)
    first, last = numbers.training[0], numbers.training[-1]
    assert first["completions/mean_length"] < limit - 1.5
    assert last["completions/mean_length"] > limit - 0.3
    assert last["reward/win_prob"] > first["reward/win_prob"] + 0.15
    assert numbers.validation[-1]["val/length"] > limit - 0.3


@pytest.mark.parametrize(
    ("critic", "kl_coef"), [("own", "0.05"), pytest.param("shared", "0.05", marks=pytest.mark.slow)]
)
def test_a_judge_that_looks_at_positions_only_teaches_nothing(
    critic: str, kl_coef: str, home: Home, tmp_path: Path
) -> None:
    """Both orders cancel its bias to the last bit: the centred reward, the values of a critic that starts at zero, the
    advantages, the gradients and with them Adam's steps are all exactly zero. Nothing may move, the critic included."""
    cli = home.run(
        *("pairwise_ppo", tmp_path, callback(Numbers), callback(FirstWeights), *planted("PositionJudge", bias=3.0)),
        *(f"{MODEL}shaping", '[{"class_path": "prl.rewards.shapers.CenteredProbability"}]'),
        *(f"{MODEL}kl.coef", kl_coef, f"{MODEL}critic.kind", critic, f"{MODEL}critic.warmup", "0"),
    )
    for numbers in find_callback(cli.trainer, Numbers).training:
        assert numbers["reward/score"] == 0
        assert numbers["reward/win_prob"] == 0.5
        assert (numbers["reward/tie_rate"], numbers["reward/flip_rate"]) == (1, 0)
        assert numbers["reward/order_gap"] > 0.9
        assert numbers["value/return_mean"] == 0
        assert numbers["policy/grad_norm"] == 0
    assert moved(cli.trainer, cli.model) == []


# ---- validation


@pytest.mark.parametrize(
    "stage",
    [
        "generative_reward",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("supervised", "bradley_terry", "pairwise_ppo")),
    ],
)
def test_validation_does_not_change_training(stage: str, home: Home, tmp_path: Path) -> None:
    order = [f"{MODEL}order", "random", f"{MODEL}text_coef", "0"] if stage == "generative_reward" else []
    often = ["--trainer.val_check_interval", "1", "--trainer.num_sanity_val_steps", "2"]
    home.run(stage, tmp_path / "often", *order, *often)
    home.run(stage, tmp_path / "never", *order, "--trainer.limit_val_batches", "0")
    found = differences(state_of(tmp_path / "often"), state_of(tmp_path / "never"))
    # What validations remember of themselves, such as how many there were since the best one.
    assert [line for line in found if not line.startswith(".run_state.validation.patience.")] == []


# ---- several rollouts and anchors


def test_several_rollouts_and_anchors_of_a_prompt(home: Home, tmp_path: Path, experiences: list[Experience]) -> None:
    rows = [json.loads(line) for line in home.data("prompts.train").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["anchor"] = [row["anchor"], *(row["anchor"] + "x" * extra for extra in range(1, 1 + number % 3))]
    data = tmp_path / "anchors.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    cli = home.run(
        *("pairwise_ppo", run, callback(Numbers), *planted("LengthJudge", scale=0.5)),
        *("--data.init_args.train.path", str(data), f"{MODEL}sampling.per_prompt", "2"),
        *(f"{MODEL}shaping", "[]"),
    )
    rollout = experiences[0].rollout
    assert len(rollout) == 16
    assert torch.equal(rollout.prompt_ids[0::2], rollout.prompt_ids[1::2])
    assert not torch.equal(rollout.response_ids[0::2], rollout.response_ids[1::2])
    numbers = find_callback(cli.trainer, Numbers)
    assert [each["progress/episodes"] for each in numbers.training] == [16, 32, 48, 64]
    assert all(0 < each["reward/score"] < 1 for each in numbers.training)
    assert numbers.validation


@pytest.mark.parametrize(
    "stage",
    ["bradley_terry", *(pytest.param(each, marks=pytest.mark.slow) for each in ("supervised", "generative_reward"))],
)
def test_no_gradients_are_kept_through_the_next_forward_pass(
    stage: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def look(module: TrainingModule, *args: Any) -> None:
        kept.append(sum(p.grad is not None for p in module.parameters()))

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", look)
    home.run(stage, tmp_path, "--trainer.accumulate_grad_batches", "2", "--trainer.limit_val_batches", "0")
    # A step is two batches, and only the second of them finds the gradients of the first.
    assert [number > 0 for number in kept] == [False, True] * 4
