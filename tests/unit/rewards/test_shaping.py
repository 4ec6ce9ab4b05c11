import pytest
import torch
from torch import Tensor

from prl.advantages.gae import shaped_gae
from prl.config import PPO, Reward
from prl.masking import whiten
from prl.rewards.shaping import apply_missing_eos, mean_per_row, overlong, sequence_scores
from prl.rl.experience import assemble
from prl.types import Verdict
from tests.helpers.records import make_rollout, ragged_mask

# margins 2 and -1: z = 1.5; margins 30 and -30: z = 30; margins 1 and 1: z = 0
VERDICT = Verdict(torch.tensor([2.0, 30.0, 1.0]), torch.tensor([-1.0, -30.0, 1.0]))


@pytest.mark.parametrize(
    ("mapping", "scores"),
    [
        ("probability", [0.8175745, 1.0, 0.5]),
        ("mean_probability", [(0.8807971 + 1 - 0.2689414) / 2, 1.0, 0.5]),
        ("centered", [0.3175745, 0.5, 0.0]),
        ("log_odds", [1.5, 5.0, 0.0]),
    ],
)
def test_mapping(mapping, scores) -> None:
    assert sequence_scores(VERDICT, mapping).tolist() == pytest.approx(scores, abs=2e-7)


def test_log_odds_are_clipped_on_both_sides() -> None:
    swapped = Verdict(VERDICT.margin_ba, VERDICT.margin_ab)
    assert sequence_scores(swapped, "log_odds", max_log_odds=1.0).tolist() == [-1.0, -1.0, 0.0]
    assert sequence_scores(VERDICT, "log_odds", max_log_odds=100.0).tolist() == [1.5, 30.0, 0.0]


def test_unknown_names_are_listed_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'odds'; known: probability, mean_probability, centered, log_odds"):
        sequence_scores(VERDICT, "odds")
    with pytest.raises(ValueError, match="'drop'; known: keep, replace, penalise"):
        apply_missing_eos(torch.zeros(1), torch.ones(1, dtype=torch.bool), "drop", 1.0)


@pytest.mark.parametrize(
    ("policy", "scores"), [("keep", [0.5, 0.25]), ("replace", [0.5, -2.0]), ("penalise", [0.5, 2.25])]
)
def test_missing_eos(policy, scores) -> None:
    finished = torch.tensor([True, False])
    assert apply_missing_eos(torch.tensor([0.5, 0.25]), finished, policy, -2.0).tolist() == scores


def token_rewards(scores: Tensor, difference: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Read the rewards inside `shaped_gae`: with gamma 0 and no values, an advantage is the reward of its token."""
    zeros = torch.zeros(mask.shape)
    return shaped_gae(difference, zeros, scores, zeros, mask, kl_coef=kl_coef, gamma=0.0).advantages


def test_the_score_stands_on_the_last_token_that_counts() -> None:
    mask = torch.tensor(
        [
            [True, True, True, True],
            [True, True, False, False],
            [True, False, True, False],  # a hole
            [False, False, False, False],  # nothing to reward
            [False, True, False, False],
        ]
    )
    found = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.ones(5, 4), mask, 0.5)
    assert found.tolist() == [
        [-0.5, -0.5, -0.5, 0.5],
        [-0.5, 1.5, 0.0, 0.0],
        [-0.5, 0.0, 2.5, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 4.5, 0.0, 0.0],
    ]


def test_without_a_kl_coefficient_the_score_is_all_there_is() -> None:
    mask = ragged_mask([3, 1])
    found = token_rewards(torch.tensor([1.0, 2.0]), torch.randn(2, 3), mask, 0.0)
    assert found.tolist() == [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]


def test_the_kl_of_masked_tokens_does_not_matter() -> None:
    mask = ragged_mask([1, 2])
    token_kl = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    found = token_rewards(torch.tensor([1.0, 2.0]), token_kl, mask, 0.5)
    assert found.tolist() == [[0.5, 0.0], [-0.5, 1.0]]


def test_scores_are_means_over_the_anchors_of_a_response() -> None:
    values = torch.tensor([2.0, 0.5, -1.0])
    assert mean_per_row(values, torch.tensor([1, 0, 1]), 2).tolist() == [0.5, 0.5]
    assert mean_per_row(values, torch.tensor([1, 0, 0]), 2).tolist() == [-0.25, 2.0]


def test_a_failed_comparison_is_left_out_of_the_mean_and_a_row_without_one_has_no_score() -> None:
    values = torch.tensor([2.0, float("nan"), float("nan")])
    found = mean_per_row(values, torch.tensor([0, 0, 1]), 3)
    assert found[0] == 2.0
    assert found[1:].isnan().all()


def test_a_response_near_the_limit_loses_more_and_more() -> None:
    lengths = torch.tensor([3, 8, 9, 11, 12])
    assert overlong(lengths, 12, 4, 2.0).tolist() == [0.0, 0.0, 0.5, 1.5, 2.0]
    assert overlong(lengths, 12, 4, 0.0).tolist() == [0.0] * 5


def assembled(reward: Reward, ppo: PPO, finished=(True, True)):
    mask = ragged_mask([3, 1])
    rollout = make_rollout(mask)
    rollout.finished[:] = torch.tensor(finished)
    old, ref = torch.full((2, 3), -1.0).masked_fill(~mask, 0), torch.full((2, 3), -1.5).masked_fill(~mask, 0)
    return assemble(
        rollout,
        torch.tensor([1.0, 2.0]),
        old_logprobs=old,
        ref_logprobs=ref,
        values=torch.full((2, 3), 0.25).masked_fill(~mask, 0),
        microbatches=[],
        kl_coef=0.5,
        reward=reward,
        ppo=ppo,
        max_length=3,
    )


def test_assemble_takes_the_kl_off_the_rewards_or_leaves_it_to_the_loss() -> None:
    # gamma and lambda 1: a return is the sum of the rewards to go
    ppo = PPO(whiten_advantages=False, gamma=1.0, gae_lambda=1.0)
    assert assembled(Reward(), ppo).returns.tolist() == [[0.25, 0.5, 0.75], [1.75, 0.0, 0.0]]
    as_loss = assembled(Reward(kl_placement="loss", kl_estimator="k2"), ppo)
    assert as_loss.returns.tolist() == [[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]]


def test_assemble_takes_a_penalty_off_responses_near_the_length_limit() -> None:
    found = assembled(Reward(overlong_penalty=0.5, overlong_buffer=2), PPO())
    assert found.rewards.tolist() == [0.5, 2.0]  # lengths 3 and 1 of 3


def test_assemble_lowers_the_score_of_an_unfinished_response() -> None:
    reward = Reward(missing_eos_value=0.5)
    found = assembled(reward, PPO(), finished=(True, False))
    assert found.rewards.tolist() == [1.0, 1.5]
    assert found.returns[1].tolist() == [1.25, 0.0, 0.0]


def test_assemble_settings_of_the_advantages() -> None:
    plain = assembled(Reward(), PPO(whiten_advantages=False, gae_lambda=0.5))
    # deltas (-0.25, -0.25, 0.5), lambda 0.5
    assert plain.advantages.tolist() == [[-0.25, 0.0, 0.5], [1.5, 0.0, 0.0]]
    assert plain.returns.tolist() == [[0.0, 0.25, 0.75], [1.75, 0.0, 0.0]]
    decoupled = assembled(Reward(), PPO(whiten_advantages=False, gae_lambda=0.5, critic_lambda=1.0))
    assert decoupled.advantages.tolist() == plain.advantages.tolist()
    assert decoupled.returns.tolist() == [[0.25, 0.5, 0.75], [1.75, 0.0, 0.0]]
    # alpha 2 / 3: lambda = 1 - 1 / (alpha l) is 0.5 for three tokens; the critic keeps gae_lambda
    adaptive = assembled(Reward(), PPO(whiten_advantages=False, gae_lambda=1.0, length_adaptive_alpha=2 / 3))
    assert adaptive.advantages.flatten().tolist() == pytest.approx(plain.advantages.flatten().tolist(), abs=1e-6)
    assert adaptive.returns.tolist() == decoupled.returns.tolist()
    white = assembled(Reward(), PPO(gae_lambda=0.5))
    assert torch.equal(white.advantages, whiten(plain.advantages, ragged_mask([3, 1])))
    assert torch.equal(white.returns, plain.returns)
