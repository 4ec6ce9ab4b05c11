"""Objectives of thoughts, against gradients that enumerate every thought."""

from itertools import product

import pytest
import torch
from torch import Tensor

from prl.objectives.reward import PairBatch, RewardObjective, ThoughtLikelihood, VerdictReward
from prl.verdict import mean_margin

NUM = 4
"""Thoughts that a judge can have."""


def weights() -> tuple[Tensor, Tensor]:
    """Logits of the thoughts, and the margin after each: all that a judge of one reading has."""
    draw = torch.Generator().manual_seed(3)
    logits, margins = (torch.randn(NUM, generator=draw, dtype=torch.float64) for _ in range(2))
    return logits.requires_grad_(), margins.requires_grad_()


def pairs_of(thoughts: Tensor, target: float, logits: Tensor, margins: Tensor, *, chosen_first: bool) -> PairBatch:
    """Pairs of one reading each, whose sampled thoughts are given: [n, B]."""
    after, logprobs = margins[thoughts][:, None], logits.log_softmax(0)[thoughts][:, None]
    count = thoughts.shape[1]
    return PairBatch(
        mean_margin(after.movedim(0, -1)),
        torch.full((1, count), chosen_first),
        torch.full((count,), target, dtype=torch.float64),
        thought_margins=after,
        thought_logprobs=logprobs,
    )


def expected_gradient(objective: RewardObjective, samples: int, target: float, *, chosen_first: bool) -> list[Tensor]:
    """Average the gradient over all tuples of thoughts, weighed by their probabilities, which do not learn."""
    parameters = weights()
    thoughts = torch.tensor(list(product(range(NUM), repeat=samples))).T
    losses = objective.loss(pairs_of(thoughts, target, *parameters, chosen_first=chosen_first))
    probability = parameters[0].detach().log_softmax(0)[thoughts].sum(0).exp()
    assert float(probability.sum()) == pytest.approx(1)
    return list(torch.autograd.grad((losses * probability).sum(), parameters))


def exact_gradient(target: float, *, chosen_first: bool) -> list[Tensor]:
    """Compute the gradient of -t log P - (1 - t) log (1 - P), where P = sum_c pi(c) p(chosen wins | c)."""
    logits, margins = weights()
    sign = 1 if chosen_first else -1
    chosen = (logits.softmax(0) * torch.sigmoid(sign * margins)).sum()
    loss = -target * chosen.log() - (1 - target) * (1 - chosen).log()
    return list(torch.autograd.grad(loss, (logits, margins)))


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    return float(torch.cat(one).sub(torch.cat(other)).norm())


@pytest.mark.parametrize("chosen_first", [True, False])
@pytest.mark.parametrize("target", [1.0, 0.3])
def test_the_expected_gradient_nears_that_of_the_likelihood_as_thoughts_grow(target, chosen_first) -> None:
    exact = exact_gradient(target, chosen_first=chosen_first)
    found = [expected_gradient(ThoughtLikelihood(), n, target, chosen_first=chosen_first) for n in (2, 4, 8)]
    errors = [distance(each, exact) for each in found]
    # A ratio of means has a bias of 1 / n: each doubling halves it.
    assert errors[1] < 0.62 * errors[0]
    assert errors[2] < 0.62 * errors[1]
    # Richardson's extrapolation from 1/2, 1/4 and 1/8 to 0.
    ahead = [(8 * late - 6 * middle + early) / 3 for early, middle, late in zip(*found, strict=True)]
    assert distance(ahead, exact) < 0.15 * errors[2]


def test_many_thoughts_give_the_gradient_of_the_likelihood() -> None:
    parameters = weights()
    draw = torch.Generator().manual_seed(0)
    thoughts = parameters[0].detach().softmax(0).multinomial(40_000, replacement=True, generator=draw)[:, None]
    loss = ThoughtLikelihood().loss(pairs_of(thoughts, 1.0, *parameters, chosen_first=True))
    found = list(torch.autograd.grad(loss.sum(), parameters))
    exact = exact_gradient(1.0, chosen_first=True)
    assert distance(found, exact) < 0.03 * float(torch.cat(exact).norm())


def test_the_baseline_changes_no_expectation_and_takes_away_noise() -> None:
    """Without it a thought is pushed up though all serve alike."""

    class WithoutBaseline(ThoughtLikelihood):
        def loss(self, batch: PairBatch) -> Tensor:
            margins, logprobs = batch.thoughts()
            return super().loss(batch) - logprobs.mean(0).mean(0)

    both = [expected_gradient(kind(), 3, 1.0, chosen_first=True) for kind in (ThoughtLikelihood, WithoutBaseline)]
    assert distance(*both) < 1e-12
    logits, _ = weights()
    alike = pairs_of(torch.tensor([[0], [2]]), 1.0, logits, torch.ones(NUM, dtype=torch.float64), chosen_first=True)
    assert torch.autograd.grad(ThoughtLikelihood().loss(alike).sum(), logits)[0].abs().max() < 1e-15


def test_one_sure_thought_outweighs_and_equal_thoughts_are_the_plain_loss() -> None:
    logits, _ = weights()
    margins = torch.tensor([3.0, 3.0, -60.0, -60.0], dtype=torch.float64, requires_grad=True)
    equal = pairs_of(torch.tensor([[0], [1]]), 1.0, logits, margins, chosen_first=True)
    plain = torch.nn.functional.softplus(torch.tensor(-3.0, dtype=torch.float64))
    assert ThoughtLikelihood().loss(equal).item() == pytest.approx(float(plain))
    mixed = pairs_of(torch.tensor([[0], [2]]), 1.0, logits.detach(), margins, chosen_first=True)
    (found,) = torch.autograd.grad(ThoughtLikelihood().loss(mixed).sum(), margins)
    alone = -torch.sigmoid(torch.tensor(-3.0, dtype=torch.float64))  # all weight is on the thought that explains it
    assert found.tolist() == pytest.approx([float(alone), 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("chosen_first", [True, False])
def test_rewarded_verdicts_have_the_exact_gradient_of_the_mean_reward_with_any_number_of_thoughts(chosen_first) -> None:
    sign = 1 if chosen_first else -1
    for reward, coef in (("right", 0.0), ("log_prob", 1.0)):
        logits, margins = weights()
        gained = (sign * margins > 0).double() if reward == "right" else torch.nn.functional.logsigmoid(sign * margins)
        exact = torch.autograd.grad(
            -(logits.softmax(0) * gained).sum(), (logits, margins), allow_unused=True, materialize_grads=True
        )
        for samples in (2, 3):
            objective = VerdictReward(reward, verdict_coef=coef)
            found = expected_gradient(objective, samples, 1.0, chosen_first=chosen_first)
            assert distance(found, list(exact)) < 1e-12, (reward, samples)


def test_a_tie_and_an_undecided_verdict_count_one_half() -> None:
    logits, _ = weights()
    margins = torch.tensor([0.0, 5.0, -5.0, 5.0], dtype=torch.float64)
    batch = pairs_of(torch.tensor([[0], [1], [2]]), 1.0, logits, margins, chosen_first=True)
    loss = VerdictReward(verdict_coef=0.0).loss(batch)  # rewards 1/2, 1 and 0
    logprobs = logits.log_softmax(0)
    expected = -(0.0 * logprobs[0] + 0.75 * logprobs[1] - 0.75 * logprobs[2]) / 3
    assert float(loss) == pytest.approx(float(expected))
    tie = pairs_of(torch.tensor([[1], [3]]), 0.5, logits, margins, chosen_first=True)
    assert float(VerdictReward(verdict_coef=0.0).loss(tie)) == 0


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"VerdictReward.reward is 'wrong'; expected one of right, log_prob"):
        VerdictReward("wrong")
    with pytest.raises(ValueError, match=r"VerdictReward.verdict_coef is -1"):
        VerdictReward(verdict_coef=-1)
    with pytest.raises(ValueError, match=r"ThoughtLikelihood.label_smoothing is 0.5"):
        ThoughtLikelihood(0.5)
    plain = PairBatch(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.ones(2))
    with pytest.raises(ValueError, match="there are no thoughts"):
        ThoughtLikelihood().loss(plain)
