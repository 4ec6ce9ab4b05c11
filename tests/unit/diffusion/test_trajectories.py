"""Trajectories as actions of a policy, on data whose exact network is known: no training, exact answers."""

import math

import pytest
import torch
from torch import Tensor

from prl.diffusion import DDPM, RectifiedFlow
from prl.diffusion.draws import generator, normal, uniform
from prl.diffusion.inversion import invert
from prl.diffusion.sampling import Prompted, sample_latents
from prl.diffusion.settings import NoiseDraws
from prl.diffusion.trajectories import StepKL, TrajectorySampling, read_steps, sample_trajectories

MEAN, STD = 2.0, 0.5
ABAR = torch.linspace(0.9999, 0.02, 400, dtype=torch.float64)


def exact_flow(noisy: Tensor, time: Tensor) -> Tensor:
    """Compute the velocity of a flow between N(MEAN, STD²) and noise."""
    t = time.view(-1, *[1] * (noisy.dim() - 1))
    d = (noisy - (1 - t) * MEAN) / ((1 - t).square() * STD**2 + t.square())
    return t * d - (MEAN + (1 - t) * STD**2 * d)


def exact_noise(noisy: Tensor, time: Tensor) -> Tensor:
    """Compute the expected noise in noisy numbers of N(MEAN, STD²)."""
    abar = ABAR[time.long()].view(-1, *[1] * (noisy.dim() - 1))
    signal, variance = abar.sqrt(), abar * STD**2 + 1 - abar
    return (1 - abar).sqrt() * (noisy - signal * MEAN) / variance


def sampled(steps: int, count: int = 4000, **settings: object) -> Tensor:
    chosen = TrajectorySampling(steps=steps, **settings)  # type: ignore[arg-type]
    process = chosen.process_of(RectifiedFlow("ode"))
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(count, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(count, len(chosen.learnt), 1, generator=draw, dtype=torch.float64)
    return sample_trajectories(process, exact_flow, start, noise, chosen).latents[:, 0]


@pytest.mark.parametrize("noise", [0.3, 0.7])
def test_many_noisy_steps_end_in_the_data_whatever_their_noise(noise) -> None:
    """Those of `cps` do not: their noise does not fall with the length of a step."""
    found = sampled(200, noise=noise)
    assert float(found.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(4000) + 0.01)
    assert float(found.std()) == pytest.approx(STD, abs=0.03)


def test_only_the_learnt_steps_are_noisy_and_kept() -> None:
    chosen = TrajectorySampling(steps=6, first=1, noisy=2)
    process = chosen.process_of(RectifiedFlow("ode"))
    start, noise = torch.ones(3, 1).double(), torch.ones(3, 2, 1).double()
    found = sample_trajectories(process, exact_flow, start, noise, chosen)
    times = process.times(6)
    assert torch.equal(found.times, times[1:4])
    by_hand = process.move(start, exact_flow(start, times[:1].expand(3)), times[0].expand(3), times[1].expand(3))
    torch.testing.assert_close(found.states[:, 0], by_hand)
    assert found.states.shape == (3, 3, 1)
    assert torch.equal(found.states[:, 2][0], found.states[:, 2][1])  # equal noise, equal paths
    other = sample_trajectories(process, exact_flow, start, 2 * noise, chosen)
    assert torch.equal(found.states[:, 0], other.states[:, 0])
    assert not torch.equal(found.states[:, 1], other.states[:, 1])


@pytest.mark.parametrize("process", [RectifiedFlow("ode"), DDPM(ABAR, eta=0.0)])
def test_log_probabilities_are_those_of_torch_in_float64(process) -> None:
    exact = exact_flow if isinstance(process, RectifiedFlow) else exact_noise
    chosen = TrajectorySampling(steps=7, reduction="sum", noise=0.7)
    noisy = chosen.process_of(process)
    draw = torch.Generator().manual_seed(1)
    start, noise = (torch.randn(5, *of, 2, 3, generator=draw).double() for of in ((), (6,)))
    found = sample_trajectories(noisy, exact, start, noise, chosen)
    rows = torch.tensor([3, 0])
    step, reached = read_steps(noisy, exact, found, rows)
    logprobs = step.log_prob(reached, "sum").unflatten(0, (2, 6))
    for place, row in enumerate(rows.tolist()):
        for number in range(6):
            now, then = (found.times[each].view(1) for each in (number, number + 1))
            before = found.states[row, number][None]
            one = noisy.step(before, exact(before, now), now, then)
            density = torch.distributions.Normal(one.mean[0], one.std[0]).log_prob(found.states[row, number + 1])
            assert float(logprobs[place, number]) == pytest.approx(float(density.sum()), abs=1e-9)
            # What the step added is the noise that was drawn.
            torch.testing.assert_close((found.states[row, number + 1] - one.mean[0]) / one.std[0], noise[row, number])


def test_the_figures_of_flow_grpo() -> None:
    """sigma .5 -> .4, a = .7, x = 1: the mean, and the KL of v = .5 to .6 in both forms."""
    process = RectifiedFlow("sde", 0.7)
    x, now, then = torch.ones(1, 1).double(), torch.tensor([0.5]), torch.tensor([0.4])
    step, other = (process.step(x, torch.full((1, 1), v).double(), now, then) for v in (0.5, 0.6))
    assert float(step.mean) == pytest.approx(0.88875, abs=1e-6)
    assert float(step.std) == pytest.approx(0.221359, abs=1e-6)
    assert float(step.log_prob(step.mean, "sum")) == pytest.approx(0.589029, abs=1e-6)
    assert float(step.kl(other, "sum")) == pytest.approx(0.00158166, abs=1e-8)
    assert float(step.kl(other, "sum")) * 0.1 == pytest.approx(0.000158166, abs=1e-9)


@pytest.mark.parametrize("process", [RectifiedFlow("ode"), DDPM(ABAR, eta=0.0)])
def test_sampling_without_noise_goes_back_where_inversion_came_from(process) -> None:
    """Many small steps of the exact network: inverted noise gives the picture again."""
    exact = exact_flow if isinstance(process, RectifiedFlow) else exact_noise
    clean = torch.tensor([[1.5], [2.0], [2.8]]).double()
    time = process.quantile(torch.full((3,), 0.999).double())
    steps = 300
    noise = invert(process, exact, clean, time, steps)
    latents = process.corrupt(clean, noise, time)
    times = time[0] - (time[0] - (0 if isinstance(process, RectifiedFlow) else -1)) * torch.arange(steps + 1) / steps
    times = times.round().long() if isinstance(process, DDPM) else times.double()
    for now, then in zip(times[:-1], times[1:], strict=True):
        latents = process.move(latents, exact(latents, now.expand(3)), now.expand(3), then.expand(3))
    torch.testing.assert_close(latents, clean, atol=0.01, rtol=0)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("process", [RectifiedFlow("ode"), DDPM(ABAR), DDPM(ABAR, "v_prediction")])
def test_a_constant_prediction_inverts_to_itself(process, steps) -> None:
    """Of noise c: x_t = a_t x0 + s_t c, so its error is 0. Of a velocity c it is c + x0 of a flow."""
    clean = torch.tensor([[0.3, -1.0]]).double()
    time = process.quantile(torch.tensor([0.6]).double())
    constant = torch.tensor([[0.5, 0.2]]).double()
    if isinstance(process, DDPM) and process.prediction != "epsilon":
        return
    noise = invert(process, lambda noisy, at: constant, clean, time, steps)
    torch.testing.assert_close(process.target(clean, noise, time), constant)


def test_inversion_needs_a_network_that_says_something_of_noise() -> None:
    with pytest.raises(ValueError, match="this one predicts pictures"):
        invert(DDPM(ABAR, "sample"), exact_noise, torch.ones(1, 1), torch.tensor([5]), 2)


def test_sampling_without_noise_is_eulers_method() -> None:
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).double()
    found = sample_latents(RectifiedFlow("ode"), exact_flow, noise, 10)
    assert float(found.std()) == pytest.approx(0.43, abs=0.02)  # as any ten steps of it
    x = noise.clone()
    for number in range(10):
        time = torch.full((2000,), 1 - number / 10).double()
        x = x - 0.1 * exact_flow(x, time)
    torch.testing.assert_close(found, x)


class TestGuidance:
    class Toy:
        """A denoiser that adds its condition."""

        def predict(self, network, noisy, time, condition):
            return network * noisy + condition["c"][:, None]

    def prompted(self, guidance: float) -> Prompted:
        condition, null = {"c": torch.tensor([1.0, 2.0])}, {"c": torch.zeros(2)}
        return Prompted(self.Toy(), 3.0, condition, null, guidance)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("guidance", "added"), [(1.0, [1.0, 2.0]), (0.0, [0.0, 0.0]), (2.5, [2.5, 5.0])])
    def test_the_prediction_moves_away_from_that_without_a_prompt(self, guidance, added) -> None:
        found = self.prompted(guidance)(torch.ones(2, 1), torch.zeros(2))
        assert found[:, 0].tolist() == pytest.approx([3 + each for each in added])

    def test_it_needs_empty_prompts(self) -> None:
        with pytest.raises(ValueError, match="guidance needs the encoding of empty prompts"):
            Prompted(self.Toy(), 3.0, {"c": torch.ones(1)}, None, 2.0)  # type: ignore[arg-type]


class TestDraws:
    def test_a_draw_depends_on_its_key_alone(self) -> None:
        keys = [(0, "train", 3, 5), (0, "train", 3, 6), (1, "train", 3, 5)]
        together = normal(keys, (2, 2))
        assert torch.equal(together[1], normal([keys[1]], (2, 2))[0])
        assert len({float(each[0, 0]) for each in together}) == 3
        assert torch.equal(uniform(keys), uniform(keys))

    def test_keys_do_not_run_into_each_other(self) -> None:
        assert generator((1, 23)).initial_seed() != generator((12, 3)).initial_seed()

    def test_they_are_standard_normal(self) -> None:
        drawn = normal([("t", n) for n in range(400)], (50,)).flatten()
        assert abs(float(drawn.mean())) < 4 / math.sqrt(20000)
        assert float(drawn.std()) == pytest.approx(1, abs=0.03)


class TestSettings:
    def test_the_last_step_is_not_learnt(self) -> None:
        assert list(TrajectorySampling(steps=5).learnt) == [0, 1, 2, 3]
        assert list(TrajectorySampling(steps=5, first=1, noisy=2).learnt) == [1, 2]

    def test_times_of_training(self) -> None:
        shares = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
        flow, ddpm = RectifiedFlow(), DDPM(ABAR)
        torch.testing.assert_close(NoiseDraws().time_of(flow, shares), shares)
        whole = NoiseDraws().time_of(ddpm, shares)
        assert int(whole.min()) == 0
        assert int(whole.max()) == 399
        assert torch.bincount(whole).float().std() < 1
        normal_logits = NoiseDraws(times="logit_normal").time_of(flow, shares).logit()
        assert float(normal_logits.mean()) == pytest.approx(0, abs=1e-9)
        assert float(normal_logits.std()) == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: TrajectorySampling(steps=1), "sampling.steps is 1; expected at least 2"),
            (lambda: TrajectorySampling(noise=0.0), "there is nothing to learn"),
            (lambda: TrajectorySampling(steps=4, noisy=4), "sampling.noisy is 4 from step 0 on; expected 1 to 3"),
            (lambda: TrajectorySampling(steps=4, first=3), "sampling.first is 3; expected 0 to 2"),
            (lambda: TrajectorySampling(guidance=-1.0), "sampling.guidance"),
            (lambda: TrajectorySampling(kind="ode"), "expected sde or cps"),  # type: ignore[arg-type]
            (lambda: TrajectorySampling(reduction="max"), "expected mean or sum"),  # type: ignore[arg-type]
            (lambda: StepKL(coef=-1.0), "kl.coef is -1.0"),
            (lambda: StepKL(form="k3"), "expected exact or released"),  # type: ignore[arg-type]
            (lambda: NoiseDraws(times="even"), "noise.times"),  # type: ignore[arg-type]
            (lambda: NoiseDraws(reduction="max"), "noise.reduction"),  # type: ignore[arg-type]
            (lambda: NoiseDraws(prompt_dropout=1.0), "noise.prompt_dropout is 1.0"),
            (lambda: NoiseDraws(inversion_steps=-1), "noise.inversion_steps is -1"),
        ],
    )
    def test_out_of_range(self, make, said) -> None:
        with pytest.raises(ValueError, match=said):
            make()
