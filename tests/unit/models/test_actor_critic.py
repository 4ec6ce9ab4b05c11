"""Tokens that the policy reads and did not make: as if they stood in the prompt."""

from typing import Any

import pytest
import torch

from prl.advantages.gae import GAE
from prl.config import CriticSettings, KLPenalty
from prl.models.actor_critic import evaluate, evaluate_critic, evaluate_frozen
from prl.models.critic import Critic, ValueHead
from prl.objectives.policy.base import PolicyOutputs
from prl.objectives.policy.ppo import PPO
from prl.rl.experience import build_experience
from prl.rl.minibatch import count_global
from prl.rl.minibatch_loss import minibatch_loss, token_weights
from prl.types import Experience, PromptBatch, Rollout, Scores
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_model

IDS = torch.arange(5, 17).repeat(2, 1)
IDS[1, 4:] += 9
WHOLE = torch.ones(2, 4, dtype=torch.bool)


def rollout(prompt: int, own: list[bool] | None = None) -> Rollout:
    """Make rows of ten tokens, the first ones the prompt; `own` of the others are the policy's, all when None."""
    ids = IDS[:, :prompt]
    batch = PromptBatch(ids, torch.ones_like(ids, dtype=torch.bool), [()] * 2, [()] * 2)
    response = IDS[:, prompt:10]
    context = torch.ones_like(response, dtype=torch.bool)
    mask = context if own is None else torch.tensor(own).expand(2, -1)
    return Rollout(batch, response, mask, mask[:, 0], ["", ""], 6, None if own is None else context)


PREFIXED, PLAIN = rollout(6, [False, False, True, True]), rollout(8)
BETWEEN = rollout(6, [True, False, False, True])


def critic_of(policy: Any, kind: str) -> Any:
    critic: Any = Critic(tiny_model(3).model).eval() if kind == "own" else ValueHead(policy.config.hidden_size)
    head = critic.head if kind == "own" else critic
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(head.weight)
    return critic


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_a_response_behind_a_prefix_is_the_response_to_the_longer_prompt(kind: str) -> None:
    policy = tiny_model(1)
    critic = critic_of(policy, kind)
    found = evaluate(policy, critic, PREFIXED, temperature=0.7, with_entropy=True)
    expected = evaluate(policy, critic, PLAIN, temperature=0.7, with_entropy=True)
    frozen = evaluate_frozen(policy, PREFIXED, temperature=0.7), evaluate_frozen(policy, PLAIN, temperature=0.7)
    values = evaluate_critic(policy, critic, PREFIXED), evaluate_critic(policy, critic, PLAIN)
    for one, other in [*zip(found, expected, strict=True), frozen, values]:
        assert one is not None
        assert other is not None
        assert not one[:, :2].any()
        assert_same_numbers(one[:, 2:], other)


def test_an_environments_turn_is_read_where_it_stands() -> None:
    """The last token follows what was said in between, at the position behind it."""
    policy = tiny_model(1)
    found, _, _ = evaluate(policy, None, BETWEEN, temperature=1.0)
    whole, _, _ = evaluate(policy, None, rollout(6), temperature=1.0)
    assert_same_numbers(found, whole.masked_fill(~BETWEEN.response_mask, 0))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_model_that_caps_its_logits_reads_the_same(temperature: float) -> None:
    policy = tiny_model(1)
    policy._prl_head_is_last = False
    found, _, entropies = evaluate(policy, None, PREFIXED, temperature=temperature, with_entropy=True)
    expected, _, plain = evaluate(tiny_model(1), None, PLAIN, temperature=temperature, with_entropy=True)
    assert entropies is not None
    assert plain is not None
    assert_same_numbers(found[:, 2:], expected)
    assert_same_numbers(entropies[:, 2:], plain)


def experience_of(found: Rollout) -> Experience:
    """Build what an update learns from, with random constants on the policy's tokens."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(2, 2, generator=generator) for _ in range(3)]
    mask = found.response_mask
    old, ref, values = (torch.zeros(mask.shape).masked_scatter(mask, each) for each in numbers)
    return build_experience(
        *(found, Scores(torch.tensor([1.0, -0.5])), torch.tensor([1.0, 2.0])),
        old_logprobs=old,
        ref_logprobs=ref,
        values=values,
        microbatches=[torch.arange(2)],
        estimator=GAE(gae_lambda=0.9),
        kl=KLPenalty(),
        kl_coef=0.1,
    )


def gradient_of(found: Rollout, aggregation: str = "token_mean") -> tuple[float, list[torch.Tensor]]:
    policy, experience = tiny_model(1), experience_of(found)
    critic = critic_of(policy, "own")
    logprobs, values, _ = evaluate(policy, critic, found, temperature=1.0)
    tokens, rows = count_global(found.response_mask, experience.weights, experience.microbatches)
    weights = token_weights(found.response_mask, aggregation, tokens, rows, experience.weights)
    loss, _ = minibatch_loss(
        *(experience, PolicyOutputs(logprobs, None), values, weights),
        objective=PPO(),
        kl=KLPenalty(placement="loss", estimator="k3"),
        kl_coef=0.1,
        critic=CriticSettings(),
    )
    loss.backward()
    return loss.item(), [
        each.grad for model in (policy, critic) for each in model.parameters() if each.grad is not None
    ]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_the_loss_is_that_of_the_policys_own_tokens(aggregation: str) -> None:
    """A response (r, r, p, p) teaches what (p, p) behind the longer prompt does: advantages, KL and critic too."""
    (loss, gradients), (expected, others) = (gradient_of(each, aggregation) for each in (PREFIXED, PLAIN))
    assert loss == pytest.approx(expected, abs=1e-6)
    assert len(gradients) == len(others) > 20
    for one, other in zip(gradients, others, strict=True):
        assert_same_numbers(one, other, 1e-5)


def test_a_response_without_a_token_of_the_policy_teaches_nothing() -> None:
    own = PREFIXED.response_mask & torch.tensor([[True], [False]])
    found = Rollout(PREFIXED.batch, PREFIXED.response_ids, own, own[:, 0], ["", ""], 6, WHOLE)
    experience = experience_of(found)
    assert experience.counted.tolist() == [True, False]
    loss, gradients = gradient_of(found)
    assert loss == loss  # no division by zero
    assert all(bool(each.isfinite().all()) for each in gradients)
    alone = found.without(torch.tensor([True, False]))
    assert not any(bool(each.any()) for each in evaluate(tiny_model(1), None, alone, temperature=1.0)[:1])
    assert not experience_of(alone).advantages.any()
