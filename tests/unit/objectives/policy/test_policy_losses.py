import math

import pytest
import torch

from prl.config import CriticSettings, KLPenalty
from prl.kl import token_kl
from prl.models.logprobs import entropy
from prl.objectives.policy.base import PolicyOutputs
from prl.objectives.policy.clipped import clipped_policy_loss, clipped_value_loss
from prl.objectives.policy.ppo import PPO
from prl.rl.minibatch_loss import minibatch_loss, token_weights
from tests.helpers.records import make_experience, ragged_mask

AS_LOSS = KLPenalty(placement="loss", estimator="k2")
IN_REWARD = KLPenalty()
CRITIC = CriticSettings()


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def policy_loss(ratio: float, advantage: float, **clips) -> tuple[float, float]:
    """Loss of one token and the gradient of its log-probability."""
    logprob = f64(math.log(ratio)).requires_grad_()
    loss = clipped_policy_loss(logprob, f64(0.0), f64(advantage), **clips)
    loss.sum().backward()
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "clips", "loss", "gradient"),
    [
        (1.1, 2.0, {}, -2.2, -2.2),  # inside the clip
        (1.5, 2.0, {}, -2.4, 0.0),  # good and already likelier: held at 1.2 A
        (0.5, 2.0, {}, -1.0, -1.0),  # good and less likely: free to come back
        (0.5, -2.0, {}, 1.6, 0.0),  # bad and already less likely: held at 0.8 A
        (1.5, -2.0, {}, 3.0, 3.0),  # bad and likelier: free to go down
        (1.5, 2.0, {"clip_range_high": 0.4}, -2.8, 0.0),  # clip-higher moves the upper bound only
        (1.35, 2.0, {"clip_range_high": 0.4}, -2.7, -2.7),
        (0.5, -2.0, {"clip_range_high": 0.4}, 1.6, 0.0),
        (5.0, -2.0, {"dual_clip": 3.0}, 6.0, 0.0),  # dual clip bounds the loss at 3 |A|
        (2.0, -2.0, {"dual_clip": 3.0}, 4.0, 4.0),  # below the bound nothing changes
        (5.0, 2.0, {"dual_clip": 3.0}, -2.4, 0.0),  # nor for positive advantages
        (0.5, -2.0, {"dual_clip": 3.0}, 1.6, 0.0),
    ],
)
def test_policy_loss_by_hand(ratio, advantage, clips, loss, gradient) -> None:
    assert policy_loss(ratio, advantage, clip_range=0.2, **clips) == pytest.approx((loss, gradient), abs=1e-12)


@pytest.mark.parametrize(
    ("new", "old", "returned", "width", "loss", "gradient"),
    [
        (0.5, 0.4, 1.0, 0.2, 0.125, -0.5),  # inside the clip
        (0.9, 0.4, 1.0, 0.2, 0.08, 0.0),  # ran ahead towards the return: held at 0.6
        (0.1, 0.4, 1.0, 0.2, 0.405, -0.9),  # ran away from the return: free to come back
        (0.9, 0.4, 1.0, None, 0.005, -0.1),  # no clip
    ],
)
def test_value_loss_by_hand(new, old, returned, width, loss, gradient) -> None:
    value = f64(new).requires_grad_()
    found = clipped_value_loss(value, f64(old), f64(returned), value_clip_range=width)
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert value.grad.item() == pytest.approx(gradient, abs=1e-12)


def test_entropy() -> None:
    probabilities = f64(0.5, 0.25, 0.25)
    assert entropy(torch.zeros(2, 3, 8)).tolist() == [[pytest.approx(math.log(8), abs=1e-6)] * 3] * 2
    assert entropy(probabilities.log()).item() == pytest.approx(1.5 * math.log(2), abs=1e-6)


MASK = ragged_mask([5, 1, 3])


def test_weights_sum_to_one_and_vanish_outside_the_mask() -> None:
    for aggregation in ("token_mean", "sequence_mean"):
        weights = token_weights(MASK, aggregation, MASK.sum(), torch.tensor(3), torch.ones(3))
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
        assert torch.equal(weights > 0, MASK)


def test_sequence_mean_equals_a_loop() -> None:
    per_token = torch.randn(MASK.shape)
    weights = token_weights(MASK, "sequence_mean", MASK.sum(), torch.tensor(3), torch.ones(3))
    loop = sum(sum(per_token[row, :length].tolist()) / length for row, length in enumerate([5, 1, 3])) / 3
    assert (per_token * weights).sum().item() == pytest.approx(loop, abs=1e-6)


def test_a_row_without_tokens_has_no_weight() -> None:
    mask = ragged_mask([2, 0])
    weights = token_weights(mask, "sequence_mean", mask.sum(), torch.tensor(2), torch.ones(2))
    assert weights.tolist() == [[0.25, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_microbatches_add_up_to_the_minibatch(aggregation) -> None:
    names = ("old_logprobs", "ref_logprobs", "values", "advantages", "returns")
    experience = make_experience(MASK, **{name: torch.randn(MASK.shape) for name in names})
    new_logprobs, new_values = (torch.randn(MASK.shape, requires_grad=True) for _ in range(2))

    def objective(rows):
        part = experience.select(rows)
        width = part.rollout.response_ids.shape[1]
        mask = part.rollout.response_mask
        weights = token_weights(mask, aggregation, MASK.sum(), torch.tensor(3), part.weights)
        policy, values = PolicyOutputs(new_logprobs[rows, :width], None), new_values[rows, :width]
        settings = {"objective": PPO(), "kl": AS_LOSS, "kl_coef": 0.3, "critic": CriticSettings()}
        return minibatch_loss(part, policy, values, weights, **settings)

    whole, whole_stats = objective(torch.tensor([0, 1, 2]))
    parts = [objective(torch.tensor(rows)) for rows in ([1], [2, 0])]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole, atol=1e-6, rtol=1e-6)
    for name, value in whole_stats.items():
        each = [stats[name] for _, stats in parts]
        together = max(each) if name.endswith("_max") else sum(each)
        torch.testing.assert_close(together, value, atol=1e-6, rtol=1e-6)
    leaves = [new_logprobs, new_values]
    expected = torch.autograd.grad(whole, leaves)
    for found, gradient in zip(torch.autograd.grad(sum(loss for loss, _ in parts), leaves), expected, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-7, rtol=1e-6)


def loss_of(
    kl: KLPenalty, new_logprobs, spread=None, critic: CriticSettings | None = CRITIC, entropy_coef: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ones = torch.ones(MASK.shape)
    experience = make_experience(MASK, ref_logprobs=-ones, values=ones, returns=3 * ones)
    weights = token_weights(MASK, "token_mean", MASK.sum(), torch.tensor(3), experience.weights)
    policy = None if new_logprobs is None else PolicyOutputs(new_logprobs, spread)
    values = None if critic is None else ones
    settings = {"objective": PPO(entropy_coef=entropy_coef), "kl": kl, "kl_coef": 0.5, "critic": critic}
    return minibatch_loss(experience, policy, values, weights, **settings)


def test_terms_of_the_loss_by_hand() -> None:
    zeros, spread = torch.zeros(MASK.shape), torch.full(MASK.shape, 1.5)
    value_term = 0.1 * 2.0  # (1 - 3)^2 / 2
    in_reward, stats = loss_of(IN_REWARD, zeros)
    assert in_reward.item() == pytest.approx(value_term, abs=1e-6)
    assert stats["value_loss"].item() == pytest.approx(2.0, abs=1e-6)
    in_loss, _ = loss_of(AS_LOSS, zeros)
    assert in_loss.item() == pytest.approx(value_term + 0.5 * 0.5, abs=1e-6)  # k2 = (0 - (-1))^2 / 2
    with_entropy, _ = loss_of(IN_REWARD, zeros, spread, entropy_coef=0.2)
    assert with_entropy.item() == pytest.approx(value_term - 0.2 * 1.5, abs=1e-6)


def test_without_a_critic_there_is_no_value_term() -> None:
    loss, stats = loss_of(AS_LOSS, torch.zeros(MASK.shape), critic=None)
    assert loss.item() == pytest.approx(0.5 * 0.5, abs=1e-6)
    assert "value_loss" not in stats


def test_only_the_critic_learns_without_new_logprobs() -> None:
    loss, stats = loss_of(AS_LOSS, None)
    assert loss.item() == pytest.approx(0.2, abs=1e-6)
    assert set(stats) == {"value_loss", "value_clip_frac"}


def test_unchanged_weights_have_ratio_one_and_no_kl_to_the_last_bit() -> None:
    old = torch.randn(MASK.shape)
    experience = make_experience(MASK, old_logprobs=old, advantages=torch.randn(MASK.shape))
    weights = token_weights(MASK, "token_mean", MASK.sum(), torch.tensor(3), experience.weights)
    _, stats = PPO()(PolicyOutputs(old.clone(), None), experience, weights)
    assert stats["approx_kl"].item() == 0.0
    assert stats["clip_frac_low"].item() == stats["clip_frac_high"].item() == 0.0
    assert stats["ratio_mean"].item() == weights.sum().item()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_response_that_counts_twice_is_there_twice(aggregation: str) -> None:
    """Weights of rows against the rows themselves, repeated."""
    mask, per_token = ragged_mask([5, 1, 3]), torch.randn(3, 5)
    twice = torch.tensor([0, 1, 1, 2])
    rows = torch.tensor([1.0, 2.0, 1.0])
    weighted = token_weights(mask, aggregation, (mask.sum(1) * rows).sum(), rows.sum(), rows)
    repeated = token_weights(mask[twice], aggregation, mask[twice].sum(), torch.tensor(4), torch.ones(4))
    expected = (per_token[twice] * repeated).sum()
    torch.testing.assert_close((per_token * weighted).sum(), expected, atol=1e-6, rtol=1e-6)


def test_gradient_of_the_kl_as_a_loss_is_that_of_the_kl_for_k2() -> None:
    """Exact expectation over a categorical: k1 has no gradient at all, which is why it is refused."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    logprobs = logits.log_softmax(0)
    probs = logprobs.exp()
    (true,) = torch.autograd.grad((probs * (logprobs - ref)).sum(), logits, retain_graph=True)

    def gradient(estimator: str) -> torch.Tensor:
        weighted = (probs.detach() * token_kl(logprobs, ref, estimator)).sum()
        return torch.autograd.grad(weighted, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient("k2"), true, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient("k1"), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="kl.estimator k1 has no gradient as a loss"):
        KLPenalty(placement="loss")
