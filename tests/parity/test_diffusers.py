"""Steps of the noise processes beside the schedulers of diffusers (`pairwise-rl[images]`)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prl.diffusion import DDPM, RectifiedFlow

diffusers = pytest.importorskip("diffusers")


def images(seed: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


PREDICTIONS = ["epsilon", "v_prediction", "sample"]
PLAIN: dict[str, Any] = {"clip_sample": False, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_and_targets_are_those_of_the_scheduler(prediction: Any) -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, **PLAIN)
    process, time = DDPM.from_scheduler(scheduler), torch.tensor([3, 700])
    clean, noise = images(0), images(1)
    torch.testing.assert_close(process.corrupt(clean, noise, time), scheduler.add_noise(clean, noise, time))
    if prediction == "v_prediction":
        torch.testing.assert_close(process.target(clean, noise, time), scheduler.get_velocity(clean, noise, time))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_step_is_that_of_ddim(prediction: Any, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, **PLAIN)
    scheduler.set_timesteps(20)
    process = DDPM.from_scheduler(scheduler, eta=eta)
    times = process.times(20)
    assert times[:-1].tolist() == scheduler.timesteps.tolist()
    x, said, noise = images(0), images(1), images(2)
    for time, to in ((times[0], times[1]), (times[10], times[11]), (times[19], times[20])):
        found = process.step(x, said, time.expand(2), to.expand(2))
        theirs = scheduler.step(said, int(time), x, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(found.sample(noise), theirs, rtol=1e-4, atol=1e-4)


def test_neighbouring_steps_with_eta_1_are_those_of_ddpm() -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_small", **PLAIN)
    process, x, said = DDPM.from_scheduler(scheduler, eta=1.0), images(0), images(1)
    for time in (999, 500, 2):
        found = process.step(x, said, torch.full((2,), time), torch.full((2,), time - 1))
        mean = scheduler.step(said, time, x, generator=torch.Generator().manual_seed(0)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found.sample(noise), mean, rtol=1e-4, atol=1e-4)


def test_an_inversion_is_that_of_the_scheduler() -> None:
    forwards = diffusers.DDIMScheduler(**PLAIN)
    scheduler = diffusers.DDIMInverseScheduler.from_config(forwards.config)
    scheduler.set_timesteps(20)
    process, x, said = DDPM.from_scheduler(forwards), images(0), images(1)
    time, later = scheduler.timesteps[7], scheduler.timesteps[8]
    # Its step at a time takes the prediction for the time before, which is where the latent lies.
    theirs = scheduler.step(said, int(later), x).prev_sample
    found = process.move(x, said, time.expand(2), later.expand(2))
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)


def test_a_flow_without_noise_is_that_of_the_scheduler() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    sigmas = RectifiedFlow().times(10)[:-1]
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    process, x, said = RectifiedFlow("ode"), images(0), images(1)
    for place in (0, 4, 9):
        scheduler._step_index = place
        theirs = scheduler.step(said, scheduler.timesteps[place], x).prev_sample
        time, to = (scheduler.sigmas[each].double().expand(2) for each in (place, place + 1))
        torch.testing.assert_close(process.step(x, said, time, to).mean, theirs, rtol=1e-5, atol=1e-5)
    noise = images(2)
    noisy = scheduler.scale_noise(x, scheduler.timesteps[[3, 6]], noise)
    torch.testing.assert_close(process.corrupt(x, noise, scheduler.sigmas[[3, 6]]), noisy, rtol=1e-5, atol=1e-5)
