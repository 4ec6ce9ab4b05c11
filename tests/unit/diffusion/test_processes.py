"""Processes of noise: both ways between image and noise, steps as Gaussians, and what they do to normal data."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.diffusion import DDPM, NoiseProcess, RectifiedFlow
from prl.diffusion.ddpm import CLEAN

ALPHAS = torch.linspace(0.9999, 0.95, 100, dtype=torch.float64).cumprod(0)
PROCESSES: dict[str, NoiseProcess] = {
    "epsilon": DDPM(ALPHAS),
    "v": DDPM(ALPHAS, "v_prediction"),
    "sample": DDPM(ALPHAS, "sample"),
    "flow": RectifiedFlow(),
}


def images(seed: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_times(process: NoiseProcess) -> Tensor:
    return torch.tensor([0.3, 0.5, 0.9] if isinstance(process, RectifiedFlow) else [10, 40, 99])


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_prediction_gives_back_image_and_noise(name: str) -> None:
    process, clean, noise = PROCESSES[name], images(0), images(1)
    time = some_times(process)
    noisy = process.corrupt(clean, noise, time)
    for found, expected in zip(
        process.split(noisy, process.target(clean, noise, time), time), (clean, noise), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert process.errors(process.target(clean, noise, time), clean, noise, time, "sum").tolist() == [0.0] * 3


@pytest.mark.parametrize("name", PROCESSES)
def test_a_move_and_its_inversion_end_where_they_began(name: str) -> None:
    """One prediction of image and noise holds along the line that it draws."""
    process, clean, noise = PROCESSES[name], images(0), images(1)
    time = some_times(process)
    to = time / 2 if isinstance(process, RectifiedFlow) else time // 2
    noisy = process.corrupt(clean, noise, time)
    moved = process.move(noisy, process.target(clean, noise, time), time, to)
    torch.testing.assert_close(moved, process.corrupt(clean, noise, to), rtol=0, atol=1e-9)
    back = process.move(moved, process.target(clean, noise, to), to, time)
    torch.testing.assert_close(back, noisy, rtol=0, atol=1e-9)


def test_an_inversion_with_a_constant_noise_has_no_error() -> None:
    """SmPO's check: where the network always predicts c, the inverted latent is a_t x_0 + s_t c."""
    process, clean = PROCESSES["epsilon"], images(0)
    constant, noisy, grid = torch.full_like(clean, 0.3), images(0), [CLEAN, 0, 20, 40, 60]
    for time, to in zip(grid, grid[1:], strict=False):
        noisy = process.move(noisy, constant, torch.full((3,), time), torch.full((3,), to))
    torch.testing.assert_close(noisy, process.corrupt(clean, constant, torch.full((3,), 60)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_renoising_has_the_scales_of_the_later_time(name: str) -> None:
    process = PROCESSES[name]
    time = some_times(process)
    later = (time + 1) / 2 if isinstance(process, RectifiedFlow) else torch.full_like(time, 99)
    to_signal, to_spread = process.scales(later)
    one, none = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    of_image = process.renoise(process.corrupt(one, none, time), none, time, later)[:, 0]
    of_noise = process.renoise(process.corrupt(none, one, time), none, time, later)[:, 0]
    added = process.renoise(none, one, time, later)[:, 0]
    torch.testing.assert_close(of_image, to_signal, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_noise.square() + added.square(), to_spread.square(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="renoise goes to later times only"):
        process.renoise(one, one, later, time)


def test_the_variance_of_renoising_by_hand() -> None:
    """Self-NPO's check: a = (0.9, 0.6) leaves 1 - 0.36 = 0.64."""
    process = DDPM(torch.tensor([0.81, 0.36], dtype=torch.float64))
    noise = torch.ones(1, 1, dtype=torch.float64)
    early, late = torch.tensor([0]), torch.tensor([1])
    inherited = process.renoise(process.corrupt(0 * noise, noise, early), 0 * noise, early, late)
    added = process.renoise(0 * noise, noise, early, late)
    assert float(inherited.square() + added.square()) == pytest.approx(0.64, abs=1e-9)


# ---- numbers of the papers' formulas


def step(process: RectifiedFlow, x: float, v: float, time: float, to: float) -> tuple[float, float]:
    row = [torch.tensor([[each]], dtype=torch.float64) for each in (x, v)]
    found = process.step(*row, *(torch.tensor([each], dtype=torch.float64) for each in (time, to)))
    return float(found.mean), float(found.std)


def test_steps_of_a_flow_by_hand() -> None:
    assert step(RectifiedFlow("sde", 0.7), 1, 0.5, 0.5, 0.4) == pytest.approx((0.88875, 0.221359), abs=1e-6)
    assert step(RectifiedFlow("cps", 0.7), 1, 0.5, 0.5, 0.4) == pytest.approx((0.676995, 0.356403), abs=1e-6)
    for kind in ("sde", "cps", "ode"):  # Euler
        assert step(RectifiedFlow(kind, 0.0), 1, 0.5, 0.5, 0.4) == pytest.approx((0.95, 0.0), abs=1e-12)
    # At t = 1 the authors put the sampler's second time in place of 1.
    at_noise = RectifiedFlow("sde", 0.7, first=0.1)
    assert step(at_noise, 1, 0.5, 1.0, 0.9)[1] == pytest.approx(0.7 * math.sqrt(1 / 0.1 * 0.1), abs=1e-6)
    assert step(RectifiedFlow("sde", 0.7), 1, 0.5, 1.0, 0.9) == pytest.approx(
        step(at_noise, 1, 0.5, 1.0, 0.9), abs=1e-6
    )


def test_density_and_kl_of_a_step_by_hand() -> None:
    process = RectifiedFlow("sde", 0.7)
    at = [torch.tensor([each], dtype=torch.float64) for each in (0.5, 0.4)]
    one, policy, reference = (torch.tensor([[each]], dtype=torch.float64) for each in (1.0, 0.5, 0.6))
    found, beside = process.step(one, policy, *at), process.step(one, reference, *at)
    assert float(found.log_prob(found.mean, "sum")) == pytest.approx(0.589029, abs=1e-6)
    kl = float(found.kl(beside, "sum"))
    assert kl == pytest.approx(0.00158166, abs=1e-8)
    s = 0.7 * math.sqrt(0.5 / 0.5)  # the paper's closed form
    assert kl == pytest.approx(0.1 / 2 * (s * 0.5 / (2 * 0.5) + 1 / s) ** 2 * 0.1**2, rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_probabilities_are_those_of_torch(reduction: Any) -> None:
    process, x, v = DDPM(ALPHAS, eta=0.8), images(0), images(1)
    found = process.step(x, v, torch.tensor([90, 50, 20]), torch.tensor([80, 40, 10]))
    sample = found.sample(images(2))
    normal = torch.distributions.Normal(found.mean, found.std.view(3, 1, 1, 1)).log_prob(sample).flatten(1)
    expected = normal.sum(1) if reduction == "sum" else normal.mean(1)
    torch.testing.assert_close(found.log_prob(sample, reduction), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sample, found.mean + found.std.view(3, 1, 1, 1) * images(2))


def test_a_step_without_noise_has_no_density() -> None:
    still = RectifiedFlow("ode").step(images(0), images(1), torch.full((3,), 0.5), torch.full((3,), 0.4))
    with pytest.raises(ValueError, match="a step without noise has no log-probability"):
        still.log_prob(images(0), "mean")


# ---- a distribution whose exact answer is known: data N(m, s²) stay so through noise and back


def ends_of(process: NoiseProcess, steps: int, mean: float = 2.0, std: float = 0.5) -> tuple[float, float]:
    """Carry mean and variance through a sampler: of normal data every prediction, and so each step, is affine."""
    times, (m, variance) = process.times(steps), (0.0, 1.0)
    for time, to in zip(times, times[1:], strict=False):
        at = time.view(1), to.view(1)
        signal, spread = (float(each) for each in process.scales(at[0]))

        def moved(x: float, at: Any = at, signal: float = signal, spread: float = spread) -> tuple[float, float]:
            # E[x_0 | x_t] of normal data, and the noise that is left.
            clean = mean + signal * std**2 * (x - signal * mean) / (signal**2 * std**2 + spread**2)
            row = [torch.tensor([[each]], dtype=torch.float64) for each in (x, clean, (x - signal * clean) / spread)]
            found = process.step(row[0], process.target(row[1], row[2], at[0]), *at)
            return float(found.mean), float(found.std)

        (at_zero, noise), (at_one, _) = moved(0.0), moved(1.0)
        slope = at_one - at_zero
        m, variance = at_zero + slope * m, slope**2 * variance + noise**2
    return m, math.sqrt(variance)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.7, 1.0])
def test_many_stochastic_steps_of_a_flow_have_its_marginals(level: float) -> None:
    assert ends_of(RectifiedFlow("sde", level), 2000) == pytest.approx((2.0, 0.5), abs=5e-3)


def test_few_steps_of_a_flow_are_as_far_off_as_the_sheet_computed() -> None:
    mean, std = ends_of(RectifiedFlow("sde", 0.7), 200)
    assert (round(mean, 2), round(std, 2)) == (2.0, 0.5)
    assert round(ends_of(RectifiedFlow("sde", 0.7), 10)[1], 2) == 0.48
    assert round(ends_of(RectifiedFlow("ode"), 10)[1], 2) == 0.43


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_many_steps_of_ddim_have_the_marginals(eta: float) -> None:
    fine = torch.linspace(1 - 1e-5, 1 - 0.01, 2000, dtype=torch.float64).cumprod(0)
    assert ends_of(DDPM(fine, eta=eta), 2000) == pytest.approx((2.0, 0.5), abs=1e-2)


@given(st.floats(0.05, 0.95), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_cps_keeps_the_scales_of_the_time_it_goes_to(time: float, share: float, level: float) -> None:
    """With a perfect prediction signal and noise of x' are 1 - t' and t', for a step of any size."""
    process, to = RectifiedFlow("cps", level), torch.tensor([time * share], dtype=torch.float64)
    if float(to) >= time:
        return
    at = torch.tensor([time], dtype=torch.float64), to
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    of_image = process.step(process.corrupt(one, none, at[0]), process.target(one, none, at[0]), *at)
    of_noise = process.step(process.corrupt(none, one, at[0]), process.target(none, one, at[0]), *at)
    assert float(of_image.mean) == pytest.approx(1 - float(to), abs=1e-9)
    assert float(of_noise.mean.square() + of_noise.std.square()) == pytest.approx(float(to) ** 2, abs=1e-9)


def test_errors_of_image_and_velocity_differ_by_the_square_of_what_is_left() -> None:
    """Flow-DPO's lemma for the noise end: |x_1 - x_1'|² = (1 - t)² |v - v'|², here .140625 on both sides."""
    process, clean, noise = RectifiedFlow(), torch.tensor([[1.0]]), torch.tensor([[-1.0]])
    time, predicted = torch.tensor([0.25]), torch.tensor([[-1.5]])
    noisy = process.corrupt(clean.double(), noise.double(), time)
    _, found = process.split(noisy, predicted.double(), time)
    assert float((noise - found).square()) == pytest.approx(0.140625, abs=1e-9)
    assert float(0.75**2 * process.errors(predicted, clean, noise, time, "sum")) == pytest.approx(0.140625, abs=1e-9)


# ---- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM(torch.tensor([0.5, 0.6])), "DDPM.alphas_cumprod: expected a falling list"),
        (lambda: DDPM(ALPHAS, "noise"), "DDPM.prediction is 'noise'; expected epsilon"),  # type: ignore[arg-type]
        (lambda: DDPM(ALPHAS, eta=1.5), "DDPM.eta is 1.5; expected a number from 0 to 1"),
        (lambda: RectifiedFlow("dpm"), "RectifiedFlow.kind is 'dpm'; expected sde, cps or ode"),  # type: ignore[arg-type]
        (lambda: RectifiedFlow("sde", -0.1), "RectifiedFlow.level is -0.1; expected at least 0"),
        (lambda: RectifiedFlow("cps", 1.1), "RectifiedFlow.level is 1.1; .* at most 1 with kind: cps"),
        (lambda: RectifiedFlow(first=1.0), "RectifiedFlow.first is 1.0; expected a number between 0 and 1"),
        (lambda: RectifiedFlow().times(0), "steps is 0; expected at least 1"),
        (lambda: DDPM(ALPHAS).times(101), "steps is 101, and the process has 100 times"),
        (lambda: RectifiedFlow().scales(torch.tensor([1.5])), r"times are \[1.5\]; expected 0 \(clean\) to 1"),
        (lambda: DDPM(ALPHAS).scales(torch.tensor([100])), r"times are \[100\]; expected -1 \(clean\) to 99"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["epsilon", "flow"])
def test_a_step_towards_noise_is_refused(name: str) -> None:
    process = PROCESSES[name]
    time = some_times(process)
    with pytest.raises(ValueError, match="a step goes to less noise"):
        process.step(images(0), images(1), time, time)


def test_times_go_from_noise_to_the_clean_image() -> None:
    assert DDPM(ALPHAS).times(4).tolist() == [99, 74, 49, 24, CLEAN]
    assert RectifiedFlow().times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("name", PROCESSES)
def test_shares_of_the_way_and_later_times(name: str) -> None:
    process, draws = PROCESSES[name], torch.tensor([0.0, 0.4, 0.999999], dtype=torch.float64)
    flow = isinstance(process, RectifiedFlow)
    ends = torch.tensor([0.0, 1.0]) if flow else torch.tensor([CLEAN, 99])
    assert process.share(ends).tolist() == [0.0, 1.0]
    found = process.later(process.quantile(torch.full((3,), 0.6)), draws)
    expected = [0.6, 0.76, 0.9999996] if flow else [61, 76, 99]
    assert found.tolist() == pytest.approx(expected)
    assert process.later(ends[1:], draws[1:2]).tolist() == ends[1:].tolist()
