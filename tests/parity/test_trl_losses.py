# TRL 1.9.2's PPO, its formulas written out, against the shipped objective: values and gradients, in float64.
import pytest
import torch
from torch import Tensor

from prl.config import CriticSettings, KLPenalty
from prl.masking import masked_mean, masked_var, whiten
from prl.objectives.policy.base import PolicyOutputs
from prl.objectives.policy.ppo import PPO
from prl.rl.minibatch_loss import minibatch_loss, token_weights
from tests.helpers.records import make_experience, ragged_mask

MASK = ragged_mask([9, 1, 4, 6, 9])


def trl_masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def trl_masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    mean = trl_masked_mean(values, mask)
    var = trl_masked_mean((values - mean) ** 2, mask)
    count = mask.sum()
    var = var * count / (count - 1)
    return (values - mean) * torch.rsqrt(var + 1e-8)


def trl_losses(new_logprobs, vpred, old, advantages, values, returns, clip_range, clip_range_value):
    ratio = torch.exp(new_logprobs - old)
    pg_losses = -advantages * ratio
    pg_losses2 = -advantages * torch.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range)
    pg_loss = trl_masked_mean(torch.max(pg_losses, pg_losses2), MASK)
    vpredclipped = torch.clamp(vpred, values - clip_range_value, values + clip_range_value)
    vf_losses1, vf_losses2 = torch.square(vpred - returns), torch.square(vpredclipped - returns)
    return pg_loss, 0.5 * trl_masked_mean(torch.max(vf_losses1, vf_losses2), MASK)


def inputs(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("old", "values", "returns", "advantages", "new_logprobs", "new_values")
    drawn = {name: torch.randn(MASK.shape, generator=generator, dtype=torch.float64) for name in names}
    # Steps of a few clip widths, so that every branch of both clips is taken.
    drawn["new_logprobs"] = (drawn["old"] + 0.4 * drawn["new_logprobs"]).requires_grad_()
    drawn["new_values"] = (drawn["values"] + 0.4 * drawn["new_values"]).requires_grad_()
    return drawn


def prl_loss(drawn: dict[str, Tensor], **settings) -> tuple[Tensor, dict[str, Tensor]]:
    experience = make_experience(
        MASK,
        old_logprobs=drawn["old"],
        values=drawn["values"],
        returns=drawn["returns"],
        advantages=drawn["advantages"],
    )
    counts = MASK.sum(), torch.tensor(len(MASK))
    weights = token_weights(MASK, "token_mean", *counts, torch.ones(len(MASK))).double()
    of_critic = {name: settings.pop(name) for name in list(settings) if name.startswith("value_")}
    return minibatch_loss(
        experience,
        PolicyOutputs(drawn["new_logprobs"], None),
        drawn["new_values"],
        weights,
        objective=PPO(**settings),
        kl=KLPenalty(),
        kl_coef=0.0,
        critic=CriticSettings(**of_critic),
    )


@pytest.mark.parametrize("seed", range(5))
def test_objective_and_gradients_equal_trl(seed) -> None:
    drawn = inputs(seed)
    leaves = [drawn["new_logprobs"], drawn["new_values"]]
    arguments = [drawn[name] for name in ("old", "advantages", "values", "returns")]
    pg_loss, vf_loss = trl_losses(*leaves, *arguments, 0.2, 0.3)
    expected = pg_loss + 0.7 * vf_loss
    expected_gradients = torch.autograd.grad(expected, leaves)
    loss, stats = prl_loss(drawn, clip_range=0.2, value_clip_range=0.3, value_coef=0.7)
    # float32 weights 1/29 are off by up to 6e-8 of themselves; everything else is float64
    relative = {"atol": 1e-9, "rtol": 1e-7}
    torch.testing.assert_close(loss, expected, **relative)
    torch.testing.assert_close(stats["policy_loss"], pg_loss.detach(), **relative)
    torch.testing.assert_close(stats["value_loss"], vf_loss.detach(), **relative)
    for found, gradient in zip(torch.autograd.grad(loss, leaves), expected_gradients, strict=True):
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(found, gradient, **relative)


def test_clip_fractions_equal_counts_of_clipped_tokens() -> None:
    drawn = inputs(0)
    _, stats = prl_loss(drawn, clip_range=0.2, value_clip_range=0.3)
    ratio = (drawn["new_logprobs"] - drawn["old"]).exp()
    gained = drawn["advantages"] > 0
    # TRL's pg_clipfrac: tokens where the clipped loss is strictly the larger one
    clipped = (-drawn["advantages"] * ratio.clamp(0.8, 1.2) > -drawn["advantages"] * ratio) & MASK
    share = {True: (clipped & gained).sum() / MASK.sum(), False: (clipped & ~gained).sum() / MASK.sum()}
    assert min(share.values()) > 0
    assert stats["clip_frac_high"].item() == pytest.approx(share[True].item(), abs=1e-6)
    assert stats["clip_frac_low"].item() == pytest.approx(share[False].item(), abs=1e-6)
    moved = ((drawn["new_values"] - drawn["values"]).abs() > 0.3) & MASK
    assert stats["value_clip_frac"].item() == pytest.approx((moved.sum() / MASK.sum()).item(), abs=1e-6)
    assert stats["ratio_mean"].item() == pytest.approx(trl_masked_mean(ratio, MASK).item(), abs=1e-6)


def test_whiten_equals_trl() -> None:
    values = torch.randn(MASK.shape) * 3 + 5
    expected = trl_masked_whiten(values.double(), MASK) * MASK
    # float32: 29 numbers near 5 with std 3, errors of a few 1e-7 after division by the std
    torch.testing.assert_close(whiten(values, MASK).double(), expected, atol=2e-6, rtol=0)
    assert masked_mean(values, MASK).item() == pytest.approx(trl_masked_mean(values, MASK).item(), rel=1e-6)
    assert masked_var(values, MASK).item() == pytest.approx(values[MASK].var().item(), rel=1e-5)
