"""A run of pairwise PPO beside the same run by hand: every logged number of each iteration, and the last weights."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from transformers import AutoModelForCausalLM

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from prl.advantages.gae import GAE
from prl.config import CriticSettings, JudgeGate, KLPenalty, LoRA, ModelSource, Optimization, Sampling, Update
from prl.data import DataSource
from prl.objectives.policy.ppo import PPO
from prl.rewards.shapers.missing_eos import MissingEOS
from prl.rewards.shapers.overlong import Overlong
from prl.types import Rollout
from tests.helpers.ppo_by_hand import EPS, PPOByHand, Row, Settings
from tests.helpers.tiny import PlantedJudge, write_tiny_model
from tests.integration.runs import Home, Numbers

ITERATIONS = 4


def margin(first: str, second: str) -> float:
    """Longer is better, the first place is better; ties; a text with one of two letters cannot be judged."""
    if "q" in first + second or "Z" in first + second:
        return math.nan
    return 0.6 * (len(first) - len(second)) + 0.5 * (first[:1] != second[:1])


class MarginJudge(PlantedJudge):
    def rule(self, first: str, second: str) -> float:
        return margin(first, second)


class Watch(Callback):
    """Remembers the weights at the start, and each iteration's draws."""

    def __init__(self) -> None:
        self.start: Any = None
        self.rollouts: list[Rollout] = []
        self.groups: list[list[list[int]]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = copy.deepcopy((pl_module.policy, pl_module.critic))
        for group in trainer.optimizers[0].param_groups:
            group["eps"] = EPS
        judge, step = pl_module.judge_responses, pl_module.step

        def watched_judge(rollout: Rollout) -> Any:
            self.rollouts.append(rollout)
            self.groups.append([])
            return judge(rollout)

        def watched_step(experience: Any, groups: list[torch.Tensor]) -> Any:
            self.groups[-1].append([row for group in groups for row in group.tolist()])
            return step(experience, groups)

        pl_module.judge_responses, pl_module.step = watched_judge, watched_step

    def rows(self, iteration: int) -> list[Row]:
        """Return the comparisons of an iteration, each with the sampled tokens."""
        rollout = self.rollouts[iteration]
        return [
            Row(
                rollout.prompt_ids[n][rollout.prompt_mask[n]].tolist(),
                rollout.response_ids[n][rollout.response_mask[n]].tolist(),
                bool(rollout.finished[n]),
                rollout.texts[n],
                rollout.batch.anchors[n],
            )
            for n in range(len(rollout))
        ]


def build(settings: Settings, critic: str, policy: ModelSource, reference: ModelSource | None) -> PairwisePPOModule:
    return PairwisePPOModule(
        policy,
        MarginJudge(),
        JudgeGate(mode="off"),
        iterations=ITERATIONS,
        max_prompt_length=64,  # with a response it is to fit into the positions of the model
        reference=reference,
        sampling=Sampling(settings.max_new_tokens, settings.temperature, per_prompt=2),
        shaping=[
            MissingEOS(settings.missing_eos_value),
            *([Overlong(settings.overlong_penalty, settings.overlong_buffer)] if settings.overlong_penalty else []),
        ],
        kl=KLPenalty(
            settings.kl_coef,
            "k2" if settings.kl_in_loss else "k1",
            "loss" if settings.kl_in_loss else "reward",
            settings.kl_target,
            settings.kl_horizon,
        ),
        advantage=GAE(settings.gamma, settings.gae_lambda, settings.critic_lambda),
        objective=PPO(settings.clip_range, settings.clip_range_high, entropy_coef=settings.entropy_coef),
        update=Update(
            epochs=2,
            minibatches=2,
            microbatch_size=3,
            max_grad_norm=settings.max_grad_norm,
            aggregation="sequence_mean" if settings.by_sequence else "token_mean",
        ),
        critic=CriticSettings(
            kind=critic,  # type: ignore[arg-type]
            learning_rate=settings.critic_learning_rate,
            value_coef=settings.value_coef,
            value_clip_range=settings.value_clip_range,
            warmup=settings.critic_warmup,
        ),
        optimization=Optimization(
            settings.learning_rate, settings.weight_decay, settings.beta1, settings.beta2, warmup=settings.warmup
        ),
    )


def fit(module: PairwisePPOModule, home: Home, folder: Path, *callbacks: Callback) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    source = DataSource(str(home.data("prompts.train")))
    trainer.fit(module, datamodule=PromptDataModule(source, source, batch_size=7))


def by_hand(watch: Watch, settings: Settings, critic: str, reference: Path) -> PPOByHand:
    policy, of_critic = (copy.deepcopy(model).double() for model in watch.start)
    other = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float64)
    own = of_critic if critic == "shared" else of_critic.head
    head = torch.nn.Linear(own.in_features, 1, dtype=torch.float64)
    head.load_state_dict(own.state_dict())
    return PPOByHand(policy, head, policy if critic == "shared" else of_critic.backbone, other, margin, settings)


def of_hand(hand: PPOByHand, name: str) -> torch.Tensor:
    """Return the weight that a parameter of the module has by hand."""
    part, _, inner = name.partition(".")
    if part == "policy":
        return hand.policy.get_parameter(inner)
    if inner.startswith("backbone."):
        return hand.backbone.get_parameter(inner.removeprefix("backbone."))
    return hand.value_head.get_parameter(inner.removeprefix("head."))


CASES = {
    "own critic, KL in the reward": ("own", Settings()),
    "shared critic, KL in the loss, by sequence": (
        "shared",
        Settings(kl_in_loss=True, by_sequence=True, critic_warmup=0, value_coef=0.2),
    ),
    "adapters, reference below them": ("shared", Settings(learning_rate=6e-3, kl_target=0.02)),
}
NOT_BY_HAND = ("time/", "mem/", "perf/", "health/", "reward/judge_cut_rate")


@pytest.mark.parametrize("case", CASES)
def test_every_number_and_all_weights_are_those_of_the_run_by_hand(case: str, home: Home, tmp_path: Path) -> None:
    critic, settings = CASES[case]
    adapted = case.startswith("adapters")
    reference = home.policy if adapted else write_tiny_model(tmp_path / "reference", seed=5, initializer_range=0.1)
    policy = ModelSource(path=str(home.policy), lora=LoRA(rank=2) if adapted else None)
    module = build(settings, critic, policy, None if adapted else ModelSource(path=str(reference)))
    watch, numbers = Watch(), Numbers()
    seed_everything(0, verbose=False)
    fit(module, home, tmp_path, watch, numbers)
    hand = by_hand(watch, settings, critic, reference)
    seen: list[dict[str, float]] = []
    for iteration, logged in enumerate(numbers.training):
        rows, groups = watch.rows(iteration), watch.groups[iteration]
        assert [sorted(groups[0] + groups[1]), sorted(groups[2] + groups[3])] == [list(range(len(rows)))] * 2
        assert len(groups) == 4  # two epochs of two minibatches
        seen.append(hand.iterate(rows, groups))
        shown = {name for name in logged if "/" in name and not name.startswith(NOT_BY_HAND)} - {"tok/s"}
        assert shown == seen[-1].keys()
        for name, value in seen[-1].items():
            assert logged[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (iteration, name)
    assert len(seen) == ITERATIONS
    assert watch.rows(0)[0].prompt == watch.rows(0)[1].prompt != watch.rows(0)[2].prompt  # two rollouts of each prompt
    for rollout in watch.rollouts:  # the judge reads the prompt that was answered
        written = module.tokenizer.batch_decode(rollout.prompt_ids, skip_special_tokens=True)
        assert all(prompt[-1]["content"] in text for prompt, text in zip(rollout.batch.prompts, written, strict=True))
    _assert_that_much_happened(seen)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.double(), of_hand(hand, name), atol=2e-5, rtol=0, msg=name)


def test_an_update_ends_where_the_policy_has_moved_past_stop_kl(home: Home, tmp_path: Path) -> None:
    module = build(Settings(critic_warmup=0), "own", ModelSource(path=str(home.policy)), None)
    module.update_settings = replace(module.update_settings, stop_kl=0.03)
    moved = iter([0.01, 0.02, 0.031, 0.029, 0.01, 0.02, 0.01, 0.04, 0.0, 0.0, 0.03, 0.03])
    module.step = lambda *_: {"approx_kl": next(moved), "policy_loss": 1.0, "ratio_mean": 1.0}  # type: ignore[method-assign]
    numbers = Numbers()
    fit(module, home, tmp_path, numbers)
    assert [each["policy/num_steps"] for each in numbers.training] == [3, 4, 1, 4]


def _assert_that_much_happened(seen: list[dict[str, float]]) -> None:
    """Otherwise equality would say little: judgements failed, ratios were clipped, the coefficient moved."""
    for name in ("reward/failed_frac", "policy/clip_frac_low", "policy/clip_frac_high", "value/clip_frac", "kl/k3"):
        assert max(numbers.get(name, 0.0) for numbers in seen) > 0, name
    assert len({numbers["kl/coef"] for numbers in seen}) > 2
    assert any(0 < numbers["completions/clipped_ratio"] < 1 for numbers in seen)
    assert max(numbers["policy/grad_norm"] for numbers in seen) > 0.5
