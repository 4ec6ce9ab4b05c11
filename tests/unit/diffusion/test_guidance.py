"""Guidance on data whose exact network and reward are known."""

import pytest
import torch
from torch import Tensor

from prl.diffusion import DDPM, RectifiedFlow
from prl.diffusion.guidance import NegativeGuided, RewardGuided, negative_weights
from prl.diffusion.sampling import sample_latents


def velocity(noisy: Tensor, time: Tensor) -> Tensor:
    """Compute the exact velocity of a flow between N(0, 1) and noise."""
    t = time.view(-1, 1)
    d = noisy / ((1 - t).square() + t.square())
    return t * d - (1 - t) * d


@pytest.mark.parametrize(("steps", "mean"), [(50, 1.470), (2000, 1.499)])
def test_every_sample_moves_by_the_slope_of_the_reward(steps, mean) -> None:
    """Data N(0, 1), r = c x: N(0, 1) times exp(c x) is N(c, 1), and the exact reward of noisy numbers is linear."""
    slope = 1.5

    def reward(noisy: Tensor, time: Tensor) -> Tensor:
        t = time.view(-1, 1)
        return (slope * (1 - t) / ((1 - t).square() + t.square()) * noisy)[:, 0]

    noise = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).double()
    flow = RectifiedFlow("ode")
    guided = sample_latents(flow, RewardGuided(flow, velocity, reward), noise, steps)
    moved = guided - sample_latents(flow, velocity, noise, steps)
    assert float(moved.mean()) == pytest.approx(mean, abs=2e-3)
    assert float(moved.std()) == pytest.approx(0, abs=1e-6)


def test_a_constant_reward_and_no_weight_change_nothing() -> None:
    flow, noise, time = RectifiedFlow("ode"), torch.randn(5, 1).double(), torch.full((5,), 0.4).double()
    for reward, weight in ((lambda x, t: 0 * x[:, 0] + 3, 1.0), (lambda x, t: x[:, 0].square(), 0.0)):
        found = RewardGuided(flow, velocity, reward, weight)(noise, time)
        torch.testing.assert_close(found, velocity(noise, time))


def test_weights_of_rewards_add_up() -> None:
    flow, noise, time = RectifiedFlow("ode"), torch.randn(5, 1).double(), torch.full((5,), 0.4).double()
    first, second = (lambda x, t: x[:, 0].square()), (lambda x, t: x[:, 0].sin())
    both = RewardGuided(flow, velocity, lambda x, t: 2 * first(x, t) - second(x, t))(noise, time)
    parts = [RewardGuided(flow, velocity, each, weight)(noise, time) for each, weight in ((first, 2.0), (second, -1.0))]
    torch.testing.assert_close(both - velocity(noise, time), sum(part - velocity(noise, time) for part in parts))


def test_at_the_noise_the_velocity_stays() -> None:
    flow, noise, time = RectifiedFlow("ode"), torch.randn(5, 1).double(), torch.ones(5).double()
    assert torch.equal(RewardGuided(flow, velocity, lambda x, t: x[:, 0])(noise, time), velocity(noise, time))


def test_it_guides_where_no_gradients_are_kept() -> None:
    """Validations of Lightning run in inference mode, whose tensors know no gradient."""
    flow = RectifiedFlow("ode")
    expected = RewardGuided(flow, velocity, lambda x, t: x[:, 0].square() * t)
    with torch.inference_mode():
        noise, time = torch.ones(2, 1).double(), torch.full((2,), 0.4).double()
        found = RewardGuided(flow, velocity, lambda x, t: x[:, 0].square() * t)(noise, time)
    torch.testing.assert_close(found, expected(torch.ones(2, 1).double(), torch.full((2,), 0.4).double()))


def test_it_guides_flows_alone() -> None:
    with pytest.raises(ValueError, match="guides flows, and this process is a DDPM"):
        RewardGuided(DDPM(torch.linspace(0.9, 0.1, 5)), velocity, lambda x, t: x)  # type: ignore[arg-type]


class TestNegativeGuided:
    def test_equal_networks_give_the_model_itself(self) -> None:
        noise, time = torch.randn(5, 1).double(), torch.full((5,), 0.4).double()
        torch.testing.assert_close(NegativeGuided(velocity, velocity, 6.5)(noise, time), velocity(noise, time))

    def test_w_of_minus_1_gives_the_other_network(self) -> None:
        found = NegativeGuided(velocity, lambda x, t: -x, -1.0)(torch.ones(1, 1), torch.tensor([0.4]))
        assert found.tolist() == [[-1.0]]

    def test_independent_errors_grow_with_the_weight(self) -> None:
        """2 w² + 2 w + 1 of one network's variance, which is why a far worse network does harm."""
        draw = torch.Generator().manual_seed(0)
        first, second = (torch.randn(200_000, generator=draw).double() for _ in range(2))
        found = NegativeGuided(lambda x, t: first, lambda x, t: second, 6.5)(first, first)
        assert float(found.var()) == pytest.approx(98.5, rel=0.02)

    def test_merged_weights(self) -> None:
        base, negative, positive = ({"w": torch.tensor([value])} for value in (1.0, 0.5, 1.2))
        assert negative_weights(base, negative, positive, 1.0)["w"].item() == 0.5
        assert negative_weights(base, negative, positive, 0.0)["w"].item() == pytest.approx(0.7)
