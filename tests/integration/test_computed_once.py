"""What an iteration of pairwise PPO computes once: the pass that scored is learnt from, frozen layers are read once.

Every number and all weights are those of a run that computes both again, to the bit.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from torch import nn

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from prl.advantages import GroupNormalized
from prl.config import CriticSettings, KLPenalty, LoRA, ModelSource, Optimization, Resources, Sampling, Update
from prl.data import DataSource
from prl.judge.base import Comparison
from prl.objectives.policy import DRPO, PPO
from prl.rl.sharding import Sharding
from tests.helpers.tiny import LengthJudge, write_tiny_model
from tests.integration.runs import Home, Numbers, differences

UPPER = LoRA(rank=2, target_modules=r"(.*\.)?layers\.(2|3)\..*(q_proj|v_proj|down_proj)")
ALL_LAYERS = LoRA(rank=2)
AGAIN = Resources(reuse_scoring=False, reuse_frozen_layers=False)
ONE_STEP: dict[str, Any] = {"epochs": 1, "minibatches": 1, "microbatch_size": 6}
ROWS = 6
SLOW = ("shared critic, entropy, temperature", "no critic, KL in the loss")


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "four", num_hidden_layers=4)


class Passes(Callback):
    """Counts passes through layers of the policy in each phase."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int], int] = {}
        self.kept: list[tuple[str, bool, int]] = []
        self.numbers = Numbers()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        stack = next(each for each in pl_module.policy.modules() if isinstance(each, nn.ModuleList) and len(each) == 4)
        for number, layer in enumerate(stack):
            layer.mlp.register_forward_hook(lambda *_, number=number: self.count(pl_module.current_phase, number))

        begin = pl_module.begin_phase

        def begin_and_look(name: str) -> None:
            begin(name)
            actors = pl_module.actors
            self.kept.append((name, actors._scored is not None, sum(each.kept_bytes for each in actors.frozen)))

        pl_module.begin_phase = begin_and_look

    def count(self, phase: str, number: int) -> None:
        self.counts[phase, number] = self.counts.get((phase, number), 0) + 1

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.numbers.on_train_batch_end(*arguments)


def fit(home: Home, policy: Path, lora: LoRA | None, resources: Resources, **settings: Any) -> tuple[Any, Passes]:
    seed_everything(0, verbose=False)
    given: dict[str, Any] = {
        **{"iterations": 2, "sampling": Sampling(8), "optimization": Optimization(1e-2), "max_prompt_length": 64},
        **settings,
    }
    source, judge = ModelSource(path=str(policy), lora=lora), given.pop("judge", LengthJudge(0.3))
    module = PairwisePPOModule(source, judge, resources=resources, **given)
    passes = Passes()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=home.root,
        callbacks=[passes],
    )
    prompts = DataSource(str(home.data("prompts.train")))
    trainer.fit(module, datamodule=PromptDataModule(prompts, prompts, batch_size=ROWS))
    return module, passes


def state(module: Any) -> dict[str, Any]:
    return {"weights": module.state_dict(), "optimizer": module.trainer.optimizers[0].state_dict()}


def logged(passes: Passes) -> list[dict[str, float]]:
    dropped = ("time/", "mem/", "perf/", "tok/s")
    found = [{k: v for k, v in each.items() if not k.startswith(dropped)} for each in passes.numbers.training]
    assert len(found) == 2
    return found


CASES: dict[str, dict[str, Any]] = {
    "own critic": {"critic": CriticSettings("own"), "lora": None},
    "shared critic, entropy, temperature": {
        **{"critic": CriticSettings("shared"), "lora": None, "objective": PPO(entropy_coef=0.1)},
        "sampling": Sampling(8, temperature=0.7),
    },
    "critic by adapters": {"critic": CriticSettings("adapter"), "lora": UPPER},
    "no critic, KL in the loss": {
        **{"advantage": GroupNormalized(), "lora": UPPER, "sampling": Sampling(8, per_prompt=2)},
        **{"kl": KLPenalty(0.1, "k2", "loss"), "update": {**ONE_STEP, "microbatch_size": 2 * ROWS, "packed": "off"}},
    },
    "responses of a prompt compared": {
        **{"objective": DRPO(), "advantage": GroupNormalized(), "lora": ALL_LAYERS, "kl": KLPenalty(0.0)},
        **{"sampling": Sampling(8, per_prompt=2), "update": {**ONE_STEP, "microbatch_size": 2 * ROWS, "packed": "off"}},
    },
}


@pytest.mark.parametrize("case", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CASES])
def test_one_step_learns_from_the_pass_that_scored(case: str, home: Home, four_layers: Path) -> None:
    settings = dict(CASES[case])
    lora, update = settings.pop("lora"), Update(**settings.pop("update", ONE_STEP))
    again, twice = fit(home, four_layers, lora, AGAIN, update=update, **settings)
    module, once = fit(home, four_layers, lora, Resources(), update=update, **settings)
    assert differences(state(module), state(again)) == []
    assert logged(once) == logged(twice)
    for numbers in logged(once):
        assert numbers.get("policy/ratio_max", 1.0) == 1.0
    readers = 1 + (case == "critic by adapters")  # of the policy's upper layers
    roles = readers + (lora is not None)
    tried = 3 * (lora == UPPER)
    assert {phase for phase, _ in once.counts} == {"rollout", "score"}
    assert twice.counts["update", 0] == twice.counts["update", 3] == 2 * readers
    assert twice.counts["score", 0] == twice.counts["score", 3] == 2 * roles
    assert once.counts["score", 3] == 2 * roles + tried
    assert once.counts["score", 0] == (3 if lora == UPPER else 2 * roles)  # once an iteration, and in the trial


@pytest.mark.parametrize("minibatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_several_microbatches_are_read_again(minibatches: int, home: Home, four_layers: Path) -> None:
    update = Update(epochs=1, minibatches=minibatches, microbatch_size=3)
    module, passes = fit(home, four_layers, None, Resources(), update=update)
    again, others = fit(home, four_layers, None, AGAIN, update=update)
    assert differences(state(module), state(again)) == []
    assert logged(passes) == logged(others)
    assert passes.counts == others.counts


@pytest.mark.parametrize(("until", "policy_learns_at"), [pytest.param(None, 2, marks=pytest.mark.slow), (-1e9, 0)])
def test_while_the_critic_warms_up_the_update_is_known_behind_scoring_only(
    until: float | None, policy_learns_at: int, home: Home, four_layers: Path
) -> None:
    settings: dict[str, Any] = {"update": Update(**ONE_STEP), "critic": CriticSettings(warmup=2, warmup_until=until)}
    module, passes = fit(home, four_layers, None, Resources(), **settings)
    again, others = fit(home, four_layers, None, AGAIN, **settings)
    assert module.warmup.length == policy_learns_at
    assert differences(state(module), state(again)) == []
    assert logged(passes) == logged(others)


def test_frozen_layers_are_read_once_for_all_roles_and_epochs(home: Home, four_layers: Path) -> None:
    update = Update(epochs=2, minibatches=2, microbatch_size=2)
    settings: dict[str, Any] = {"update": update, "critic": CriticSettings("adapter")}
    module, once = fit(home, four_layers, UPPER, Resources(), **settings)
    again, twice = fit(home, four_layers, UPPER, AGAIN, **settings)
    assert differences(state(module), state(again)) == []
    assert logged(once) == logged(twice)
    groups = ROWS // 2
    assert once.counts["score", 0] == 2 * groups + 1  # in two iterations, and once more where the model is tried
    assert ("update", 0) not in once.counts
    assert once.counts["update", 3] == twice.counts["update", 3] == 2 * groups * 2 * 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_rows_of_shared_prompts_are_read_once_too(epochs: int, home: Home, four_layers: Path) -> None:
    update = Update(epochs=epochs, minibatches=1, microbatch_size=2 * ROWS, packed="on")
    sampling, critic = Sampling(8, per_prompt=2), CriticSettings("adapter")
    settings: dict[str, Any] = {"update": update, "critic": critic, "sampling": sampling}
    module, once = fit(home, four_layers, UPPER, Resources(), **settings)
    again, twice = fit(home, four_layers, UPPER, AGAIN, **settings)
    assert module.actors.prompt_sharing.policy.tokens.cached_token_fraction > 0
    assert differences(state(module), state(again)) == []
    assert logged(once) == logged(twice)
    assert ("update", 0) not in once.counts
    assert once.counts.get(("update", 3), 0) == (0 if epochs == 1 else twice.counts["update", 3])


class FirstInfinite(LengthJudge):
    """Its first reading has an infinite margin, so that the first update is left out."""

    reading = 0

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        found = super().margins(comparisons)
        self.reading += 1
        if self.reading == 1:
            found[0] = torch.inf
        return found


def test_nothing_is_kept_beyond_an_update_or_behind_one_that_is_left_out(home: Home, four_layers: Path) -> None:
    settings: dict[str, Any] = {"update": Update(**ONE_STEP), "iterations": 3, "judge": FirstInfinite()}
    module, passes = fit(home, four_layers, UPPER, Resources(), **settings)
    assert module.health.record.skipped == 1
    assert module.actors._scored is None
    assert all(each.kept_bytes == 0 for each in module.actors.frozen)
    kept = [(phase, scored, states > 0) for phase, scored, states in passes.kept if phase in ("rollout", "update")]
    assert kept == [("rollout", False, False)] * 2 + [("update", True, True), ("rollout", False, False)] + kept[-1:]


def test_a_validation_keeps_nothing(home: Home, four_layers: Path) -> None:
    module, _ = fit(home, four_layers, UPPER, Resources(), update=Update(**ONE_STEP), iterations=1)
    rollout = module.actors.generate(next(iter(module.trainer.train_dataloader)))
    with torch.no_grad():
        policy, reference, _ = module.actors.score(rollout, [torch.arange(len(rollout))])
    assert not torch.equal(policy, reference)
    assert not policy.requires_grad
    assert all(each.kept_bytes == 0 for each in module.actors.frozen)


@pytest.mark.parametrize("case", ["own critic", "critic by adapters", "shared critic, entropy, temperature"])
def test_policy_and_critic_learn_one_after_the_other_as_both_at_once(case, home, four_layers, monkeypatch) -> None:
    settings = {**CASES[case], "update": Update(epochs=2, minibatches=2, microbatch_size=2)}
    lora, alive, found = settings.pop("lora"), list[int](), []
    outputs = PairwisePPOModule._outputs

    def counted(module: Any, rollout: Any) -> Any:
        passes = list[int]()
        for each in outputs(module, rollout):
            passes.append(sum(part is not None for part in each))
            yield each
        alive.extend(passes)

    monkeypatch.setattr(PairwisePPOModule, "_outputs", counted)
    for apart in (True, False):
        monkeypatch.setattr(Sharding, "takes_any_backward_pass", apart)
        module, passes = fit(home, four_layers, lora, Resources(), **settings)
        found.append((state(module), logged(passes)))
        assert set(alive) == ({1} if apart and "shared" not in case else {2})
        alive.clear()
    assert not differences(*(each for each, _ in found))
    assert found[0][1] == found[1][1]
