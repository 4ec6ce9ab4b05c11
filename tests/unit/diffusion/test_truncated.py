"""Truncated diffusion fine-tuning on data whose exact network is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prl.diffusion import DDPM, NoiseProcess, RectifiedFlow
from prl.diffusion.truncated import Truncated, Truncation, learnt_error, truncate

ALPHAS = torch.linspace(0.9999, 0.95, 100, dtype=torch.float64).cumprod(0)
PROCESSES: dict[str, NoiseProcess] = {"epsilon": DDPM(ALPHAS, eta=0.0), "flow": RectifiedFlow("ode")}


def exact(process: NoiseProcess, slope: Tensor | float = 1.0) -> Any:
    """Predict for data N(0, 1), exactly for slope 1: E[x_0 | x_t] = a x / (a² + s²)."""

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        a, s = (each[:, None] for each in process.scales(time))
        clean = slope * a / (a.square() + s.square()) * noisy
        eps = (noisy - a * clean) / s
        return eps - clean if isinstance(process, RectifiedFlow) else eps

    return predict


def normal(seed: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", PROCESSES)
def test_each_row_takes_its_own_steps(name) -> None:
    process, noise, counts = PROCESSES[name], normal(0), torch.tensor([1, 2, 4, 3])
    predict, times = exact(process), process.times(8)
    found = truncate(process, predict, noise, counts, Truncation(grid=8, steps=4))
    assert found.time.tolist() == times[counts].tolist()
    for row, count in enumerate(counts.tolist()):
        latents = noise[row : row + 1]
        for step in range(count):
            now, then = times[step : step + 1], times[step + 1 : step + 2]
            latents = process.move(latents, predict(latents, now), now, then)
        torch.testing.assert_close(found.latents[row : row + 1], latents)
        clean, _ = process.split(latents, predict(latents, times[count : count + 1]), times[count : count + 1])
        torch.testing.assert_close(found.clean[row : row + 1], clean)


@pytest.mark.parametrize("name", PROCESSES)
def test_an_exact_network_is_not_changed(name) -> None:
    """Data N(0, 1): the expected gradient of the error at the exact network is 0, and elsewhere leads back to it."""
    process, rows = PROCESSES[name], 400_000
    time, later = process.quantile(torch.full((rows,), 0.4)), process.quantile(torch.full((rows,), 0.7))
    latents = process.corrupt(normal(0, rows), normal(1, rows), time)
    found = Truncated(latents, time, process.split(latents, exact(process)(latents, time), time)[0])
    gradients = []
    for start in (0.5, 1.0, 1.5):
        slope = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        error = learnt_error(process, exact(process, slope), found, later, normal(2, rows), Truncation(grid=9))
        gradients += torch.autograd.grad(error.mean(), slope)
    assert abs(float(gradients[1])) < 0.02 * float(gradients[2])
    assert float(gradients[0]) < 0 < float(gradients[2])


def test_the_slope_of_the_sheet() -> None:
    """a of 0.9 and 0.6: what is learnt from x_s is 0.6 x_s, and renoising adds the variance 0.64 less what is there."""
    process, rows = DDPM(torch.tensor([0.81, 0.36])), 400_000
    time, later = torch.zeros(rows).long(), torch.ones(rows).long()
    latents = process.corrupt(normal(0, rows), normal(1, rows), time)
    noisy = process.renoise(latents, normal(2, rows), time, later)
    assert float((0.9 * latents * noisy).mean() / noisy.square().mean()) == pytest.approx(0.6, abs=3e-3)
    added = (noisy - 0.6 / 0.9 * latents).var()
    assert float(added) + (0.6 / 0.9) ** 2 * 0.19 == pytest.approx(0.64, abs=3e-3)


def test_errors_by_hand() -> None:
    clean, target = torch.tensor([[0.003, 0.0]]).double(), torch.zeros(1, 2).double()
    assert Truncation().error(clean, target).tolist() == pytest.approx([4.5e-6])
    huber = Truncation(loss="huber", reduction="sum").error(clean, target)
    assert huber.tolist() == pytest.approx([10**0.5 * 1e-3 - 1e-3])
    far = Truncation(loss="huber").error(torch.full((1, 2), 5.0), torch.zeros(1, 2))
    assert far.tolist() == pytest.approx([5 - 1e-3], abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"steps": 25}, {"guidance": -1.0}, {"loss": "cosine"}, {"huber_c": 0.0}, {"reduction": "max"}],
)
def test_settings_out_of_range(settings) -> None:
    with pytest.raises(ValueError, match=f"truncation.{next(iter(settings))} is"):
        Truncation(**settings)
