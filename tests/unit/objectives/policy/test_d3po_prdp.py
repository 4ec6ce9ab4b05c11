"""D3PO and PRDP against figures computed by hand from the papers' equations, and identities of both."""

import math

import pytest
import torch
from torch import Tensor

from prl.objectives.policy import D3PO, PRDP
from prl.objectives.preference import DPO, evaluate
from tests.helpers.policy_batches import loss_of, of_prompts


def loss(objective, ratios: list[list[float]], rewards: list[float], prompts: list[int] | None = None) -> Tensor:
    """Loss of responses by their log-ratios to the reference, which sampled."""
    logprobs = torch.tensor(ratios, dtype=torch.float64)
    experience = of_prompts(prompts or [0] * len(ratios), [logprobs.shape[1]] * len(ratios), rewards=rewards)
    return loss_of(objective, experience, logprobs).loss


def gradient(objective, ratios: list[list[float]], rewards: list[float]) -> Tensor:
    logprobs = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
    experience = of_prompts([0] * len(ratios), [logprobs.shape[1]] * len(ratios), rewards=rewards)
    return torch.autograd.grad(loss_of(objective, experience, logprobs).loss, logprobs)[0]


class TestD3PO:
    def test_one_step(self) -> None:
        assert float(loss(D3PO(), [[0.05], [-0.02]], [1.0, 0.0])) == pytest.approx(0.689653, abs=1e-6)
        assert float(loss(D3PO(), [[-0.02], [0.05]], [0.0, 1.0])) == pytest.approx(0.689653, abs=1e-6)

    def test_the_preference_is_applied_to_each_step_by_itself(self) -> None:
        steps = [float(loss(D3PO(), [[a], [b]], [1.0, 0.0])) for a, b in ((0.05, -0.02), (0.0, 0.08))]
        found = float(loss(D3PO(), [[0.05, 0.0], [-0.02, 0.08]], [1.0, 0.0]))
        assert found == pytest.approx(sum(steps) / 2)

    @pytest.mark.parametrize(("ratios", "bound"), [([5.0, -5.0], 0.683164), ([-5.0, 5.0], 0.703231)])
    def test_the_clip_bounds_the_loss_and_beyond_it_there_is_no_gradient(self, ratios, bound) -> None:
        each = [[ratio] for ratio in ratios]
        assert float(loss(D3PO(), each, [1.0, 0.0])) == pytest.approx(bound, abs=1e-6)
        assert not gradient(D3PO(), each, [1.0, 0.0]).any()
        assert gradient(D3PO(clip_range=None), each, [1.0, 0.0]).all()

    def test_at_the_reference(self) -> None:
        assert float(loss(D3PO(), [[0.0], [0.0]], [1.0, 0.0])) == pytest.approx(math.log(2))
        assert gradient(D3PO(0.4), [[0.0], [0.0]], [1.0, 0.0]).flatten().tolist() == pytest.approx([-0.2, 0.2])

    def test_a_tie_teaches_nothing(self) -> None:
        assert not gradient(D3PO(), [[0.05], [-0.02]], [0.5, 0.5]).any()

    def test_one_step_of_one_gaussian_is_dpo(self) -> None:
        """T = 1: log-ratios of N(theta, 1) to N(0, 1) at two points."""
        theta, points = 0.3, torch.tensor([1.2, -0.4], dtype=torch.float64)
        ratios = -0.5 * (points - theta).square() + 0.5 * points.square()
        pair = {"chosen": [[-3 + float(ratios[0])]], "rejected": [[-3 + float(ratios[1])]]}
        expected = evaluate(DPO(0.7), **pair, ref_chosen=[[-3.0]], ref_rejected=[[-3.0]])
        found = loss(D3PO(0.7, clip_range=None), ratios[:, None].tolist(), [2.0, 1.0])
        assert float(found) == pytest.approx(expected.item())

    def test_pairs_stay_within_a_prompt(self) -> None:
        together = loss(D3PO(), [[0.05], [0.09], [-0.02], [0.01]], [1.0, 5.0, 0.0, 7.0], [0, 1, 0, 1])
        alone = [loss(D3PO(), [[a], [b]], r) for a, b, r in ((0.05, -0.02, [1.0, 0.0]), (0.09, 0.01, [5.0, 7.0]))]
        assert float(together) == pytest.approx(float(sum(alone)) / 2)


class TestPRDP:
    STEPS = [[0.3, 0.1], [-0.1, 0.1]]

    @pytest.mark.parametrize(("over", "expected"), [("sum", 0.36), ("mean", 0.64)])
    def test_both_forms(self, over, expected) -> None:
        found = loss(PRDP(1.0, clip_range=10.0, over_steps=over), self.STEPS, [1.0, 0.0])
        assert float(found) == pytest.approx(expected, abs=1e-6)

    def test_beyond_the_clip_the_loss_is_held_and_has_no_gradient(self) -> None:
        assert float(loss(PRDP(1.0, 0.05), self.STEPS, [1.0, 0.0])) == pytest.approx(0.81, abs=1e-6)
        assert not gradient(PRDP(1.0, 0.05), self.STEPS, [1.0, 0.0]).any()

    def test_moving_the_wrong_way_is_never_clipped(self) -> None:
        away = [[-0.3, -0.1], [0.1, -0.1]]
        assert float(loss(PRDP(1.0, 0.05), away, [1.0, 0.0])) == pytest.approx(
            float(loss(PRDP(1.0, 9.0), away, [1.0, 0.0]))
        )
        assert gradient(PRDP(1.0, 0.05), away, [1.0, 0.0]).all()

    def test_at_the_optimum_the_loss_of_every_pair_is_0(self) -> None:
        """Reference N(0, 1), r = x, beta 1: the optimum is N(1, 1), whose log-ratio is x - 1/2."""
        points = torch.tensor([0.3, -1.2, 2.2, 0.9], dtype=torch.float64)
        found = loss(PRDP(1.0, 10.0), (points - 0.5)[:, None].tolist(), points.tolist())
        assert float(found) == pytest.approx(0.0, abs=1e-12)

    def test_at_the_reference_its_gradient_is_that_of_reinforce(self) -> None:
        """Of a policy N(theta, 1) with r = x, dL/dtheta = -(4 / beta) cov(x, x), which is -8 at beta 1/2."""
        points = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
        logprobs = (-0.5 * (points - theta).square() + 0.5 * points.square())[:, None]
        experience = of_prompts([0] * 400, [1] * 400, rewards=points.tolist())
        (found,) = torch.autograd.grad(loss_of(PRDP(0.5, 10.0), experience, logprobs).loss, theta)
        covariance = points.var()  # the score of theta is x - theta, and its reward x
        assert float(found) == pytest.approx(-4 / 0.5 * float(covariance), rel=1e-9)

    def test_what_is_added_to_all_rewards_of_a_prompt_changes_nothing(self) -> None:
        plain, moved = (loss(PRDP(), self.STEPS, [1.0 + c, 0.0 + c]) for c in (0.0, 7.0))
        assert float(plain) == pytest.approx(float(moved))

    def test_pairs_stay_within_a_prompt(self) -> None:
        ratios, rewards = [[0.1], [0.2], [0.3], [-0.4]], [1.0, 0.0, 3.0, 9.0]
        together = loss(PRDP(1.0, 10.0), ratios, rewards, [0, 1, 0, 1])
        alone = [loss(PRDP(1.0, 10.0), [ratios[i], ratios[j]], [rewards[i], rewards[j]]) for i, j in ((0, 2), (1, 3))]
        assert float(together) == pytest.approx(float(sum(alone)) / 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: D3PO(beta=0.0), "D3PO.beta is 0.0"),
        (lambda: D3PO(clip_range=1.0), "D3PO.clip_range is 1.0"),
        (lambda: PRDP(beta=-1.0), "PRDP.beta is -1.0"),
        (lambda: PRDP(clip_range=0.0), "PRDP.clip_range is 0.0"),
        (lambda: PRDP(over_steps="max"), "PRDP.over_steps"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()
