# Worked examples of verdicts, advantages and losses, computed by hand. They are rounded to six decimals, hence the
# tolerance of half a unit in the sixth, and slightly more where an example rounds a rounded number (R = 0.7537745).
import pytest
import torch
from torch.nn.functional import logsigmoid

from prl.advantages.gae import GAE, ShapedAdvantages, shaped_gae
from prl.config import CriticSettings, KLPenalty
from prl.models.policy import verdict_margins
from prl.objectives.policy.base import PolicyOutputs
from prl.objectives.policy.clipped import clipped_policy_loss, clipped_value_loss
from prl.objectives.policy.ppo import PPO
from prl.objectives.reward import BradleyTerry, Pairwise
from prl.rewards.shapers.base import RewardShaper
from prl.rewards.shapers.verdicts import CenteredProbability, LogOdds, MeanProbability
from prl.rl.experience import build_experience
from prl.rl.minibatch_loss import minibatch_loss, token_weights
from prl.types import Scores
from prl.verdict import Verdict
from tests.helpers.records import make_experience, make_rollout, ragged_mask, read_pairs
from tests.helpers.tiny import ConstantJudge, PositionJudge

SIX_DECIMALS = 5.01e-7
SIX_DECIMALS_FLOAT32 = 6e-7  # gae works in float32, whose spacing near 0.8 is 6e-8
MASK = ragged_mask([3])


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def close(tensor: torch.Tensor, expected, tolerance=SIX_DECIMALS) -> None:
    assert tensor.squeeze().tolist() == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.fixture
def verdict() -> Verdict:
    ids = torch.tensor([0, 1])
    return Verdict(verdict_margins(f64(2.0, 0.5)[None], ids), verdict_margins(f64(0.3, 1.1)[None], ids))


def test_block_1_probabilities(verdict) -> None:
    close(verdict.margin_ab.sigmoid(), 0.817574)
    close(verdict.margin_ba.sigmoid(), 0.310026)
    close(verdict.mean_prob, 0.753774)
    close(verdict.win_logit, 1.15)
    close(verdict.win_prob, 0.759511)


def test_block_1_losses(verdict) -> None:
    pairs = read_pairs(f64(1.0), verdict.margin_ab, verdict.margin_ba)
    plain = Pairwise().loss(pairs)
    close(plain, 0.286257)
    close(Pairwise(consistency_coef=1.0).loss(pairs) - plain, 0.016282)
    close(Pairwise(logit_consistency_coef=1.0).loss(pairs) - plain, 0.49)  # 1.5 and -0.8


def block_2(values: list[float], **settings: float) -> ShapedAdvantages:
    logprobs, ref_logprobs = torch.tensor([[-1, -0.5, -2]]), torch.tensor([[-1.2, -0.4, -1.5]])
    score = torch.tensor([0.7537745])
    return shaped_gae(logprobs, ref_logprobs, score, torch.tensor([values]), MASK, kl_coef=0.1, **settings)


def test_block_2_token_rewards() -> None:
    # without values and with gamma 0, an advantage is the reward of its token
    close(block_2([0.0, 0.0, 0.0], gamma=0.0).advantages, [-0.02, 0.01, 0.803775], SIX_DECIMALS_FLOAT32)


@pytest.mark.parametrize(
    ("gae_lambda", "advantages"),
    [(0.95, [0.368406, 0.303586, 0.203775]), (1.0, [0.393775, 0.313775, 0.203775])],
)
def test_block_2_advantages(gae_lambda, advantages) -> None:
    close(block_2([0.4, 0.5, 0.6], gamma=1.0, gae_lambda=gae_lambda).advantages, advantages, SIX_DECIMALS_FLOAT32)


def test_block_2_returns() -> None:
    _, returns, _ = block_2([0.4, 0.5, 0.6], gamma=1.0, gae_lambda=0.95)
    close(returns, [0.768406, 0.803586, 0.803775], SIX_DECIMALS_FLOAT32)


def test_block_2_losses() -> None:
    advantages, returns, _ = block_2([0.4, 0.5, 0.6], gamma=1.0, gae_lambda=0.95)
    policy = clipped_policy_loss(f64(-0.8, -0.6, -2.3), f64(-1, -0.5, -2), advantages, clip_range=0.2)
    value = clipped_value_loss(f64(0.75, 0.45, 0.62), f64(0.4, 0.5, 0.6), returns, value_clip_range=0.2)
    close(policy.mean(), -0.289248, SIX_DECIMALS_FLOAT32)
    close(value.mean(), 0.031193, SIX_DECIMALS_FLOAT32)


def test_block_2_through_experience_and_objective() -> None:
    old, ref, values = (torch.tensor([row]) for row in ([-1, -0.5, -2], [-1.2, -0.4, -1.5], [0.4, 0.5, 0.6]))
    experience = build_experience(
        make_rollout(MASK),
        Scores(torch.tensor([0.7537745])),
        torch.ones(1),
        old_logprobs=old,
        ref_logprobs=ref,
        values=values,
        microbatches=[],
        estimator=GAE(whiten=False),
        kl=KLPenalty(),
        kl_coef=0.1,
    )
    weights = token_weights(MASK, "token_mean", torch.tensor(3), torch.tensor(1), torch.ones(1))
    policy, new_values = PolicyOutputs(torch.tensor([[-0.8, -0.6, -2.3]]), None), torch.tensor([[0.75, 0.45, 0.62]])
    settings = {"objective": PPO(), "kl": KLPenalty(), "kl_coef": 0.1, "critic": CriticSettings()}
    loss, stats = minibatch_loss(experience, policy, new_values, weights, **settings)
    close(stats["policy_loss"], -0.289248, SIX_DECIMALS_FLOAT32)
    close(stats["value_loss"], 0.031193, SIX_DECIMALS_FLOAT32)
    close(loss, -0.289248 + 0.1 * 0.031193, SIX_DECIMALS_FLOAT32)


def shaped(shaper: RewardShaper, verdict: Verdict) -> torch.Tensor:
    """Return the reward of each comparison, as of responses with one anchor each."""
    rows = torch.arange(len(verdict))
    return shaper(Scores(verdict.win_prob, verdict, rows), make_rollout(ragged_mask([1] * len(verdict)))).rewards


def test_block_3_bradley_terry_limit() -> None:
    r_y, r_a = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    verdict = Verdict(r_y - r_a, r_a - r_y)
    assert torch.equal(shaped(LogOdds(clip=100.0), verdict), r_y - r_a)
    sure = torch.ones(20, dtype=torch.float64)
    half = Pairwise().loss(read_pairs(sure, verdict.margin_ab, verdict.margin_ba))
    assert torch.allclose(half, BradleyTerry().loss(read_pairs(sure, r_y - r_a)), atol=1e-15)
    assert torch.allclose(half, -logsigmoid(r_y - r_a), atol=1e-15)


def test_block_3_a_shift_of_the_scalar_by_prompt_changes_nothing() -> None:
    # Quarters: sums and differences are exact, so that "nothing" means no bit.
    r_y, r_a, shift = (torch.randint(-40, 40, (50,)) / 4 for _ in range(3))
    plain = Verdict(r_y - r_a, r_a - r_y)
    shifted = Verdict((r_y + shift) - (r_a + shift), (r_a + shift) - (r_y + shift))
    assert torch.equal(plain.win_prob, shifted.win_prob)
    for shaper in (MeanProbability(), CenteredProbability(), LogOdds()):
        assert torch.equal(shaped(shaper, plain), shaped(shaper, shifted))


@pytest.mark.parametrize("judge", [ConstantJudge(), PositionJudge(3.0)], ids=["constant", "position"])
@pytest.mark.parametrize("shaper", [CenteredProbability(), LogOdds()])
def test_block_3_a_judge_that_ignores_the_response_leaves_the_policy_alone(judge, shaper) -> None:
    prompts = [[{"role": "user", "content": "x"}]] * 3
    verdict = judge.compare(prompts, ["good", "", "bad bad"], ["anchor"] * 3)
    mask = ragged_mask([4, 1, 2])
    zeros = torch.zeros(3, 4)
    advantages = shaped_gae(zeros, zeros, shaped(shaper, verdict), zeros, mask, kl_coef=0.05).advantages
    new_logprobs = torch.randn(3, 4, requires_grad=True)
    weights = token_weights(mask, "token_mean", mask.sum(), torch.tensor(3), torch.ones(3))
    experience = make_experience(mask, advantages=advantages, old_logprobs=new_logprobs.detach())
    loss, _ = PPO()(PolicyOutputs(new_logprobs, None), experience, weights)
    loss.backward()
    assert torch.equal(new_logprobs.grad, torch.zeros(3, 4))
