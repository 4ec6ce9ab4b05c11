"""GPO by hand, and against SPPO."""

import pytest
import torch

from prl.objectives.policy import GPO
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


def test_a_beta_that_is_not_above_0_is_refused() -> None:
    with pytest.raises(ValueError, match="GPO.beta is 0.0; expected a finite number above 0"):
        GPO(beta=0.0)
