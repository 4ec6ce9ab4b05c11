"""GPO by hand, and against SPPO."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from prl.objectives.policy import GPO, P3O
from prl.objectives.policy.base import PolicyObjective
from prl.objectives.preference import SPPO, evaluate
from tests.helpers.policy_batches import loss_of, of_prompts, spread


def test_squares_of_whole_responses_by_hand() -> None:
    logprobs = spread([0.3, -0.2, 0.0], [3, 1, 2]).requires_grad_()
    experience = of_prompts([0, 0, 0], [3, 1, 2], advantages=[0.2, -0.1, -0.1])
    loss = loss_of(GPO(beta=0.5), experience, logprobs).loss
    gaps = [0.3 - 0.4, -0.2 + 0.2, 0.0 + 0.2]
    assert loss.item() == pytest.approx(sum(gap**2 for gap in gaps) / 3)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient[:, 0].tolist() == pytest.approx([2 * gap / 3 for gap in gaps])
    assert torch.equal(gradient[0], gradient[0, :1].expand(3))  # of the response, hence the same for its tokens


def test_nothing_is_left_to_learn_at_the_tilted_policy() -> None:
    logprobs = spread([0.4, -0.2, -0.2], [2] * 3).requires_grad_()
    loss = loss_of(GPO(beta=0.5), of_prompts([0] * 3, [2] * 3, advantages=[0.2, -0.1, -0.1]), logprobs).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(0, abs=1e-30)
    assert gradient.abs().max().item() < 1e-15


def test_win_rates_less_a_half_are_sppo() -> None:
    found = loss_of(GPO(beta=0.1), of_prompts([0, 0], [2, 3], advantages=[0.3, -0.3]), spread([0.5, 0.1], [2, 3]))
    given = {
        "chosen": [[-0.6, -0.9]],
        "ref_chosen": [[-1.0, -1.0]],
        "rejected": [[-0.9, -1.0, -1.0]],
        "ref_rejected": [[-1.0, -1.0, -1.0]],
    }
    sppo = evaluate(SPPO(beta=0.1), **given, chosen_win_rate=[0.8], rejected_win_rate=[0.2])
    assert found.loss.item() == pytest.approx(sppo.item())


@pytest.mark.parametrize("objective", [GPO(beta=0.5), P3O(), P3O(clip="joint")])
def test_tokens_in_front_that_are_not_the_policy_s_change_nothing(objective: PolicyObjective) -> None:
    """Responses that begin with tokens of a reference response (DR-PO) learn from their own."""
    plain = of_prompts([0, 0], [2, 3], advantages=[0.4, -0.4])
    logprobs = spread([0.3, -0.2], [2, 3])
    expected = loss_of(objective, plain, logprobs).loss
    values = {each.name: getattr(plain, each.name) for each in fields(plain)}
    two = {name: each for name, each in values.items() if isinstance(each, torch.Tensor) and each.dim() == 2}
    pushed: dict[str, Any] = {name: pad(each, (1, 0)) for name, each in two.items()}
    mask = pad(plain.rollout.response_mask, (1, 0))
    rollout = replace(
        plain.rollout,
        response_ids=pad(plain.rollout.response_ids, (1, 0)),
        response_mask=mask,
        context_mask=mask | pad(torch.ones(2, 1, dtype=torch.bool), (0, 3)),
    )
    assert not rollout.response_mask[:, 0].any()
    found = loss_of(objective, replace(plain, rollout=rollout, **pushed), pad(logprobs, (1, 0))).loss
    assert found.item() == pytest.approx(expected.item())
    assert found.item() != 0


def test_a_beta_that_is_not_above_0_is_refused() -> None:
    with pytest.raises(ValueError, match="GPO.beta is 0.0; expected a finite number above 0"):
        GPO(beta=0.0)
