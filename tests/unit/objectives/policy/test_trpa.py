"""TRPA against figures that did not come from this repository, and DPO."""

import math

import pytest
import torch

from prl.objectives.policy import TRPA
from prl.objectives.policy.base import LossOutput
from prl.objectives.preference import DPO, evaluate
from tests.helpers.policy_batches import loss_of, of_prompts

FREE = {"kl_coef": 0.0}


def one(ratios: list[float], rewards: list[float], objective: TRPA | None = None) -> LossOutput:
    """Compute the loss of one prompt, of two tokens each, whose mean log-ratios to the reference are given."""
    experience = of_prompts([0] * len(ratios), [2] * len(ratios), rewards=rewards)
    logprobs = torch.tensor([[ratio - 0.3, ratio + 0.3] for ratio in ratios], dtype=torch.float64)
    return loss_of(objective or TRPA(**FREE), experience, logprobs)


def test_the_losses_of_the_sheet() -> None:
    """Levels 1, 2, 2, and a pair of levels 2 and 3."""
    assert one([0.2, -0.1, -0.3], [1.0, 0.0, 0.0]).loss.item() == pytest.approx(0.644475, abs=1e-6)
    assert one([-0.1, -0.3], [0.0, -1.0]).loss.item() == pytest.approx(0.683197, abs=1e-6)


def test_the_trust_region_of_the_sheet() -> None:
    experience = of_prompts([0, 0], [1, 1], rewards=[0.0, 0.0], ref=torch.tensor([[0.1], [-0.2]]).double())
    moved = torch.tensor([[0.1], [-0.2]], dtype=torch.float64)
    output = loss_of(TRPA(kl_coef=1.0), experience, moved)
    assert output.stats["kl_penalty"].item() == pytest.approx(0.013120, abs=1e-6)


def test_a_pair_of_two_levels_is_dpo_with_ratios_of_a_token() -> None:
    found = one([0.4, -0.2], [0.0, -1.0], TRPA(beta=0.5, anisotropy=1.0, **FREE)).loss
    pairs = {"chosen": [[-0.6]], "rejected": [[-1.2]], "ref_chosen": [[-1.0]], "ref_rejected": [[-1.0]]}
    assert found.item() == pytest.approx(evaluate(DPO(0.5), **pairs).item())


def test_a_prompt_of_one_level_raises_what_is_right_and_lowers_what_is_not() -> None:
    for reward, sign in ((1.0, 1.0), (0.4, -1.0)):
        found = one([0.2, -0.5], [reward, reward])
        expected = [math.log1p(math.exp(-sign * ratio)) for ratio in (0.2, -0.5)]
        assert found.loss.item() == pytest.approx(sum(expected) / 2)
        assert found.stats["paired"].item() == 0


def test_prompts_weigh_alike_whatever_their_pairs() -> None:
    ratios, rewards = [0.2, -0.1, -0.3, 0.1, 0.4, -0.2], [1.0, 0.0, 0.0, 1.0, 0.6, 0.2]
    experience = of_prompts([3] * 3 + [1] * 3, [2] * 6, rewards=rewards)
    logprobs = torch.tensor(ratios, dtype=torch.float64)[:, None].expand(-1, 2)
    both = loss_of(TRPA(**FREE), experience, logprobs).loss.item()
    alone = [one(ratios[rows], rewards[rows]).loss.item() for rows in (slice(0, 3), slice(3, 6))]
    assert both == pytest.approx(sum(alone) / 2)


def test_a_response_that_does_not_count_is_in_no_pair() -> None:
    experience = of_prompts([0] * 3, [2, 2, 0], rewards=[1.0, 0.0, 1.0])
    logprobs = torch.tensor([[0.2, 0.2], [-0.1, -0.1], [0.0, 0.0]], dtype=torch.float64).requires_grad_()
    loss = loss_of(TRPA(**FREE), experience, logprobs).loss
    assert loss.item() == pytest.approx(one([0.2, -0.1], [1.0, 0.0]).loss.item())
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert (gradient[0] < 0).all()
    assert (gradient[1] > 0).all()
    assert not gradient[2].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "TRPA.beta is 0.0; expected a finite number above 0"),
        ({"anisotropy": -1.0}, "TRPA.anisotropy is -1.0; expected a finite number above 0"),
        ({"kl_coef": -1.0}, "TRPA.kl_coef is -1.0; expected a finite number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRPA(**settings)
