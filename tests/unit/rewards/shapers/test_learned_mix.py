"""Weights of rewards, learnt: exactly the gradient of what they are for, and what becomes of good and bad rewards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages import GroupNormalized
from prl.rewards import RuleReward, WeightedReward
from prl.rewards.shapers.base import shape
from prl.rewards.shapers.learned_mix import LearnedMix
from prl.types import Rollout, Scores
from tests.helpers.groups import advantages, in_groups
from tests.helpers.records import ragged_mask
from tests.helpers.two_processes import in_two_processes


def rollout(rows: int, per_prompt: int) -> Rollout:
    return in_groups(ragged_mask([1] * rows), per_prompt)


def scores(**components: list[float]) -> Scores:
    parts = {name: torch.tensor(values) for name, values in components.items()}
    return Scores(sum(parts.values()), components=parts)  # type: ignore[arg-type]


def learnt(mix: LearnedMix, per_prompt: int, **components: list[float]) -> dict[str, float]:
    found = scores(**components)
    mix(found, rollout(len(found.rewards), per_prompt))
    return mix.weights


def of_optimum(phi: Tensor, rewards: Tensor, true: Tensor, beta: float) -> Tensor:
    """Compute the true reward of the best policy under a KL to equal probabilities."""
    return (rewards @ phi / beta).softmax(0) @ true


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), responses=st.integers(2, 6), beta=st.sampled_from([1.0, 3.0]))
def test_a_step_is_the_gradient_of_the_true_reward_of_the_optimum(seed: int, responses: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(responses, 2, generator=generator)
    true = torch.rand(responses, generator=generator)
    phi = torch.rand(2, generator=generator, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(of_optimum(phi, rewards.double(), true.double(), beta), phi)
    weights = dict(zip(("one", "two"), phi.tolist(), strict=True))
    mix = LearnedMix(weights, beta=beta, decay=0.0, learning_rate=1e-3, terms=120)
    parts = {"one": rewards[:, 0].tolist(), "two": rewards[:, 1].tolist(), "target": true.tolist()}
    after = learnt(mix, responses, **parts)
    step = [(after[name] - weights[name]) / 1e-3 for name in weights]
    for name, found, gradient in zip(weights, step, expected.tolist(), strict=True):
        assert after[name] == 0 or found == pytest.approx(gradient, abs=1e-6)


def test_a_step_by_hand() -> None:
    # Weights of 0: the optimum is as before, and the gradient the covariance with the true reward, here 1/4 and -1/4.
    mix = LearnedMix({"target": 0.0, "bad": 0.0}, learning_rate=2.0, decay=0.0, terms=1)
    assert learnt(mix, 2, target=[0.0, 1.0], bad=[1.0, 0.0]) == pytest.approx({"target": 0.5, "bad": 0.0}, abs=1e-6)
    mix = LearnedMix({"target": 1.0, "bad": 1.0}, learning_rate=0.5, decay=0.2, beta=2.0, terms=1)
    # The two cancel: 1 + 0.5 (1/4 / 2 - 0.2) and 1 + 0.5 (-1/4 / 2 - 0.2).
    assert learnt(mix, 2, target=[0.0, 1.0], bad=[1.0, 0.0]) == pytest.approx(
        {"target": 0.9625, "bad": 0.8375}, abs=1e-6
    )


def test_prompts_whose_true_rewards_are_equal_change_nothing() -> None:
    mix = LearnedMix({"target": 1.0, "aux": 0.5})
    assert learnt(mix, 2, target=[1.0, 1.0, 0.0, 0.0], aux=[0.0, 1.0, 2.0, 3.0]) == {"target": 1.0, "aux": 0.5}
    alone = learnt(LearnedMix({"target": 1.0, "aux": 0.5}), 2, target=[0.0, 1.0], aux=[0.0, 1.0])
    beside = learnt(LearnedMix({"target": 1.0, "aux": 0.5}), 2, target=[0.0, 1.0, 1.0, 1.0], aux=[0.0, 1.0, 5.0, 0.0])
    assert alone == beside


def test_a_rate_of_0_is_the_weighted_sum() -> None:
    weights = {"a": 0.3, "b": 0.7, "c": 0.1}
    rules: dict[str, Any] = {
        name: RuleReward(lambda prompt, text, row, place=place: float(text[place]) / 3)
        for place, name in enumerate(weights)
    }
    rows = rollout(6, 3)
    answers = Rollout(
        rows.batch, rows.response_ids, rows.response_mask, rows.finished, ["123", "456", "789", "147", "25x", "369"], 1
    )
    found = WeightedReward(rules, weights).score(answers)
    backwards = dict(reversed(weights.items()))
    again = shape(found, answers, [LearnedMix(backwards, target="a", learning_rate=0.0)])
    assert torch.equal(again.rewards.nan_to_num(-1), found.rewards.nan_to_num(-1))
    assert again.failed.tolist() == [False, False, False, False, True, False]


def test_a_response_without_a_reward_teaches_nothing() -> None:
    nan = float("nan")
    plain = learnt(LearnedMix({"target": 1.0, "aux": 0.5}), 2, target=[0.0, 1.0], aux=[1.0, 0.5])
    for true, aux in (([0.0, 1.0, nan], [1.0, 0.5, 9.0]), ([0.0, 1.0, 9.0], [1.0, 0.5, float("inf")])):
        assert learnt(LearnedMix({"target": 1.0, "aux": 0.5}), 3, target=true, aux=aux) == plain


def test_a_step_is_the_mean_over_the_prompts_of_several_iterations() -> None:
    batches = [([0.0, 1.0], [1.0, 0.0]), ([0.0, 1.0, 1.0, 0.0], [0.2, 0.9, 0.0, 1.0])]
    mix = LearnedMix({"target": 1.0, "aux": 0.5}, every=2)
    assert learnt(mix, 2, target=batches[0][0], aux=batches[0][1]) == {"target": 1.0, "aux": 0.5}
    found = learnt(mix, 2, target=batches[1][0], aux=batches[1][1])
    together = [sum(parts, []) for parts in zip(*batches, strict=True)]
    assert found == pytest.approx(
        learnt(LearnedMix({"target": 1.0, "aux": 0.5}), 2, target=together[0], aux=together[1])
    )


def bandit(mix: LearnedMix | None, seed: int, fixed: dict[str, float], iterations: int = 150) -> tuple[float, float]:
    """Train a softmax policy over six responses, of which the auxiliary reward likes a wrong one.

    Returns:
        True reward of the policy, and the weight of the auxiliary reward, at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(6)
    true = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    bad = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(iterations):
        probs = logits.softmax(0)
        drawn = probs.multinomial(32, replacement=True, generator=generator)
        given = scores(target=true[drawn].tolist(), aux=bad[drawn].tolist())
        if mix is not None:
            rewards = mix(given, rollout(32, 8)).rewards
        else:
            rewards = fixed["target"] * true[drawn] + fixed["aux"] * bad[drawn]
        learn = advantages(GroupNormalized(), rewards.tolist(), 8)[:, 0]
        slope = torch.nn.functional.one_hot(drawn, 6).float() - probs
        logits = logits + 0.3 * (learn[:, None] * slope).mean(0)
    return float(logits.softmax(0) @ true), (mix.weights if mix is not None else fixed)["aux"]


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_auxiliary_reward_loses_its_weight_and_a_run_its_harm(seed: int) -> None:
    begin = {"target": 1.0, "aux": 1.0}
    misled, _ = bandit(None, seed, begin)
    best, _ = bandit(None, seed, {"target": 1.0, "aux": 0.0})
    found, weight = bandit(LearnedMix(begin, learning_rate=0.3), seed, begin)
    assert misled < 0.1
    assert weight == 0.0
    assert found > 0.9 * best > 0.8


def test_a_reward_that_goes_along_keeps_a_weight_and_one_that_does_not_loses_it() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = LearnedMix({"target": 1.0, "along": 1.0, "unrelated": 1.0}, learning_rate=1.0)
    for _ in range(60):
        true = (torch.rand(64, generator=generator) < 0.5).float()
        along = true + 0.5 * torch.randn(64, generator=generator)
        learnt(
            mix, 8, target=true.tolist(), along=along.tolist(), unrelated=torch.randn(64, generator=generator).tolist()
        )
    assert mix.weights["along"] > 0.5
    assert mix.weights["target"] > 0.5
    assert mix.weights["unrelated"] < 0.3


@pytest.mark.parametrize("every", [1, 3])
def test_a_state_goes_on_to_the_bit(every: int) -> None:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.rand(8, 2, generator=generator) for _ in range(7)]

    def apply(mix: LearnedMix, batch: Tensor) -> Tensor:
        return mix(scores(target=batch[:, 0].tolist(), aux=batch[:, 1].tolist()), rollout(8, 4)).rewards

    whole, cut = (LearnedMix({"target": 1.0, "aux": 0.5}, every=every) for _ in range(2))
    for batch in batches:
        saved, cut = cut.state_dict(), LearnedMix({"target": 9.0, "aux": 9.0}, every=every)
        cut.load_state_dict(saved)
        assert torch.equal(apply(cut, batch), apply(whole, batch))
        assert saved["weights"] is not cut.weights  # what was saved stays as it was
    assert cut.state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match=r"weights of \['aux', 'target'\], LearnedMix.weights names \['one'\]"):
        LearnedMix({"one": 1.0}).load_state_dict(cut.state_dict())


def of_a_run(process: int | None) -> list[Any]:
    """Learn from one prompt of each batch on the first process, two on the second; from all three without processes."""
    generator = torch.Generator().manual_seed(2)
    mix = LearnedMix({"target": 1.0, "aux": 0.5}, every=2)
    prompts = {None: slice(0, 12), 0: slice(0, 4), 1: slice(4, 12)}[process]
    for _ in range(4):
        batch = torch.rand(12, 2, generator=generator)[prompts]
        mix(scores(target=batch[:, 0].tolist(), aux=batch[:, 1].tolist()), rollout(len(batch), 4))
    return [mix.state_dict()]


def test_two_processes_have_the_weights_of_one_to_the_bit(tmp_path: Path) -> None:
    first, second = in_two_processes(of_a_run, tmp_path)
    assert first == second == of_a_run(None)


def test_a_reward_without_the_sources_is_refused() -> None:
    mix = LearnedMix({"helpful": 1.0}, target="correct")
    mix.check(("helpful", "correct", "length"))
    mix.check(None)
    with pytest.raises(
        ValueError, match=r"LearnedMix reads the sources \['correct'\], and the reward has \['helpful'\]"
    ):
        mix.check(("helpful",))
    with pytest.raises(ValueError, match="name them as sources of a WeightedReward"):
        mix(Scores(torch.zeros(2)), rollout(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {}}, "LearnedMix.weights is {}"),
        ({"weights": {"a": -1.0}}, "LearnedMix.weights is"),
        ({"weights": {"a": float("nan")}}, "LearnedMix.weights is"),
        ({"learning_rate": -0.1}, "LearnedMix.learning_rate is -0.1"),
        ({"decay": float("inf")}, "LearnedMix.decay is inf"),
        ({"beta": 0.0}, "LearnedMix.beta is 0.0"),
        ({"every": 0}, "LearnedMix.every is 0"),
        ({"terms": 0}, "LearnedMix.terms is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedMix(**{"weights": {"a": 1.0}, **settings})


def test_the_weights_are_logged() -> None:
    mix = LearnedMix({"target": 1.0, "aux": 0.5}, learning_rate=0.0)
    assert mix.numbers() == {"rewards/target/weight": 1.0, "rewards/aux/weight": 0.5}
