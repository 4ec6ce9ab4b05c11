"""What holds for every policy objective, whatever its formula; a new one is found by its file."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import prl.objectives.policy
from prl.objectives.policy.base import PolicyObjective, PolicyOutputs
from prl.plugins import methods_in
from prl.rl.minibatch_loss import token_weights
from prl.types import Experience
from tests.helpers.policy_batches import of_prompts

METHODS = methods_in("prl.objectives.policy", prl.objectives.policy.__path__, PolicyObjective)
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "P3O": [{}, {"clip": "joint"}],
    "PPO": [{}, {"dual_clip": 1.5}, {"entropy_coef": 0.1}],
    "RGRGRPO": [{}, {"denominator": "old"}],
}
"""Settings to try beside the defaults."""
every = pytest.mark.parametrize(
    "objective",
    [
        pytest.param(method(**settings), id=f"{name}{'-' if settings else ''}{'-'.join(map(str, settings.values()))}")
        for name, method in METHODS.items()
        for settings in SETTINGS.get(name, [{}])
    ],
)
PROMPTS, LENGTHS = [0, 0, 0, 1, 1, 1, 2, 2, 2], [3, 1, 4, 2, 2, 0, 5, 1, 2]
REWARDS = [1.0, 0.0, 0.4, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
ADVANTAGES = [0.5, -0.5, 0.0, 0.5, -0.5, 0.0, 0.3, -0.1, -0.2]


def experience(seed: int = 0) -> Experience:
    """Three prompts; one response does not count, one prompt has equal rewards, and filters weigh some more."""
    generator = torch.Generator().manual_seed(seed)
    found = of_prompts(PROMPTS, LENGTHS, rewards=REWARDS, advantages=ADVANTAGES, max_new_tokens=5)
    mask = found.rollout.response_mask
    old, ref = (-torch.rand(mask.shape, generator=generator, dtype=torch.float64) * mask for _ in range(2))
    weights = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    guided = torch.tensor([False, True, False] * 3)
    found = replace(found, rollout=replace(found.rollout, guided=guided))
    return replace(found, old_logprobs=old, ref_logprobs=ref, weights=weights)


def loss_of(objective: PolicyObjective, part: Experience, outputs: PolicyOutputs, whole: Experience) -> Any:
    """Compute the share of a micro-batch in the loss of a whole minibatch."""
    mask, total = part.rollout.response_mask, (whole.counted * whole.weights).sum()
    return objective(outputs, part, token_weights(mask, "sequence_mean", total, total, part.weights))


def outputs_of(part: Experience, logprobs: Tensor) -> PolicyOutputs:
    return PolicyOutputs(logprobs, 0.1 + 0 * logprobs.detach())


@every
def test_microbatches_of_whole_prompts_add_up_to_the_minibatch(objective: PolicyObjective) -> None:
    if isinstance(objective, prl.objectives.policy.DRPO):
        objective = prl.objectives.policy.DRPO(kl_coef=0.0)  # its constraint is on the KL of a micro-batch
    whole = experience()
    logprobs = (whole.old_logprobs - 0.05).requires_grad_()
    found = loss_of(objective, whole, outputs_of(whole, logprobs), whole)
    parts = []
    for rows in (torch.tensor([3, 4, 5]), torch.tensor([8, 2, 7, 0, 6, 1])):
        part = whole.select(rows)
        width = part.rollout.response_ids.shape[1]
        parts.append(loss_of(objective, part, outputs_of(part, logprobs[rows, :width]), whole))
    torch.testing.assert_close(sum(part.loss for part in parts), found.loss)
    for name, value in found.stats.items():
        each = [part.stats[name] for part in parts]
        torch.testing.assert_close(max(each) if name.endswith("_max") else sum(each), value)
    (expected,) = torch.autograd.grad(found.loss, logprobs)
    (gradient,) = torch.autograd.grad(sum(part.loss for part in parts), logprobs)
    torch.testing.assert_close(gradient, expected)


@every
def test_the_first_step_raises_the_best_response_of_a_prompt_and_lowers_the_worst(objective: PolicyObjective) -> None:
    """At the policy that sampled, which is the reference."""
    whole = replace(experience(), ref_logprobs=experience().old_logprobs)
    logprobs = whole.old_logprobs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(objective, whole, outputs_of(whole, logprobs), whole).loss, logprobs)
    of_response = gradient.sum(1)
    for best, worst in ((0, 1), (3, 4)):
        assert of_response[best] < 0
        assert of_response[worst] > 0
    assert not gradient[~whole.rollout.response_mask].any()


@every
def test_gradients_are_those_of_finite_differences(objective: PolicyObjective) -> None:
    if isinstance(objective, prl.objectives.policy.DRPO):
        objective = prl.objectives.policy.DRPO(kl_coef=0.0)  # the factor of its constraint is held
    whole = experience(1)
    mask = whole.rollout.response_mask
    moved = 0.03 * torch.arange(mask.numel(), dtype=torch.float64).view(mask.shape).sin()

    def loss(logprobs: Tensor) -> Any:
        return loss_of(objective, whole, outputs_of(whole, logprobs), whole).loss

    assert torch.autograd.gradcheck(loss, [(whole.old_logprobs + moved * mask).requires_grad_()])


@every
def test_a_minibatch_in_which_nothing_counts_has_a_loss_of_zero(objective: PolicyObjective) -> None:
    empty = of_prompts([0, 0], [0, 0], rewards=[0.0, 0.0], max_new_tokens=3)
    logprobs = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask, one = empty.rollout.response_mask, torch.tensor(1.0)
    found = objective(outputs_of(empty, logprobs), empty, token_weights(mask, "token_mean", one, one, empty.weights))
    assert found.loss.item() == 0
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    assert not gradient.any()
