"""Snapshots of a network in training, and the rejected pictures and states that they make."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prl.config import LoRA, ModelSource
from prl.diffusion.base import NoiseProcess
from prl.diffusion.ddpm import DDPM
from prl.diffusion.denoisers import load_denoiser
from prl.diffusion.draws import normal
from prl.diffusion.rectified_flow import RectifiedFlow
from prl.diffusion.rejected import EarlierSelves, PolicyStates, RejectedRows, RejectedSource
from prl.diffusion.sampling import ImageSampling, sample_latents
from prl.diffusion.snapshots import EarlierNetwork, trained_weights
from tests.helpers.pictures import PROMPTS, write_stable_diffusion_3

KEYS = [(0, "train", 0, 7), (0, "train", 0, 2), (0, "train", 0, 5)]


class Line(nn.Module):
    """A network that predicts its weight, whatever it reads, and remembers at which times it was asked."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))
        self.asked: list[list[float]] = []

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        self.asked.append(time.tolist())
        return self.value.expand(noisy.shape)


class Plain:
    """In place of a denoiser: its network reads latents and times alone."""

    def __init__(self, process: NoiseProcess) -> None:
        self.process = process

    def predict(self, network: Any, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
        return network(noisy, time)


def rows(network: Any, share: Tensor, process: NoiseProcess | None = None) -> RejectedRows:
    denoiser: Any = Plain(process or RectifiedFlow(kind="ode"))
    noise = normal([("noise", *key) for key in KEYS[: len(share)]], (1, 2, 2))
    return RejectedRows(denoiser, network, KEYS[: len(share)], {}, {}, share.double(), noise)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    return write_stable_diffusion_3(tmp_path_factory.mktemp("pipelines") / "flow", latent=False)


def batches(source: RejectedSource, network: Line, count: int, first: int = 0) -> Iterator[int]:
    """Begin the batches of a run in which the weight is the number of the batch, and yield their numbers."""
    for number in range(first, first + count):
        network.value.data.fill_(number)
        source.begin_batch(number, 0, network)
        yield number


class TestSnapshots:
    def test_an_earlier_network_is_the_network_with_its_earlier_weights(self, flow) -> None:
        denoiser, network = load_denoiser(ModelSource(path=str(flow)), 4)
        _, other = load_denoiser(ModelSource(path=str(flow)), 4)
        earlier = EarlierNetwork(network, trained_weights(network))
        for parameter in network.parameters():
            parameter.data += 0.1
        given = (torch.randn(2, *denoiser.latent_shape), torch.tensor([0.3, 0.8]).double())
        condition = denoiser.encode(list(PROMPTS[:2]), torch.device("cpu"))
        now = denoiser.predict(network, *given, condition)
        then = denoiser.predict(earlier, *given, condition)
        assert torch.equal(then, denoiser.predict(other, *given, condition))
        assert not torch.allclose(then, now)
        now.sum().backward()  # the call in between has left the network as it was
        assert not then.requires_grad

    def test_with_adapters_they_alone_are_kept(self, flow) -> None:
        _, network = load_denoiser(ModelSource(path=str(flow), lora=LoRA(rank=2, target_modules=["to_q"])), 4)
        weights = trained_weights(network)
        assert weights
        assert all("lora_" in name for name in weights)
        name, weight = next(iter(weights.items()))
        before = weight.clone()
        network.get_parameter(name).data += 1
        assert torch.equal(weight, before)


class TestEarlierSelves:
    def test_the_pool_has_the_last_snapshots(self) -> None:
        source, network = EarlierSelves(every=3, kept=2), Line()
        found = [[float(each["value"]) for each in source.pool] for _ in batches(source, network, 8)]
        assert found == [[0.0]] * 3 + [[0.0, 3.0]] * 3 + [[3.0, 6.0]] * 2

    def test_each_of_the_pool_is_drawn_and_stays_until_the_next_snapshot(self) -> None:
        source, network = EarlierSelves(every=2, kept=4), Line()
        drawn = [source.drawn for _ in batches(source, network, 200)]
        assert drawn[::2] == drawn[1::2]
        counts = torch.tensor(drawn[8::2]).bincount(minlength=4)
        assert len(counts) == 4
        assert int(counts.min()) > 12  # of 96 draws; 24 is expected

    def test_a_pool_of_one_is_the_newest(self) -> None:
        source, network = EarlierSelves(every=2, kept=1), Line()
        assert [float(source.weights["value"]) for _ in batches(source, network, 4)] == [0.0, 0.0, 2.0, 2.0]

    def test_pictures_are_those_of_the_drawn_self_with_the_noise_of_the_row(self) -> None:
        """Euler steps of a constant velocity v lead from noise to noise - v."""
        source, network = EarlierSelves(every=1, kept=3, sampling=ImageSampling(steps=4)), Line()
        for number in batches(source, network, 6):
            made = source.states(given := rows(network, torch.tensor([0.25, 0.5, 1.0])))
            start = normal([("rejected", *key) for key in KEYS], (1, 2, 2))
            own = max(number - 2, 0) + source.drawn
            time = torch.tensor([0.25, 0.5, 1.0])[:, None, None, None]
            torch.testing.assert_close(made.noisy, (1 - time) * (start - own) + time * given.noise)
            torch.testing.assert_close(made.target, given.noise - (start - own))

    def test_before_the_first_batch_the_network_itself_makes_them(self) -> None:
        source, network = EarlierSelves(), Line(2.0)
        assert source.maker(network) is network


class TestPolicyStates:
    @pytest.mark.parametrize("process", [RectifiedFlow(kind="ode"), DDPM(torch.linspace(0.999, 0.01, 100), eta=0.0)])
    def test_a_state_is_where_the_sampler_of_the_snapshot_is_at_its_time(self, process) -> None:
        source, network, share = PolicyStates(every=9, steps=4), Line(), torch.tensor([0.3, 0.5, 0.99])
        next(batches(source, network, 1, first=9))
        network.value.data.fill_(100.0)  # the network goes on, and its snapshot stays
        given = rows(network, share, process)
        made = source.states(given)
        start = normal([("rejected", *key) for key in KEYS], (1, 2, 2))
        for row in range(3):
            shares = [float(share[row]) + step / 4 for step in range(4) if float(share[row]) + step / 4 < 1]
            times = process.quantile(torch.tensor([1.0, *reversed(shares)]).double())
            latents, prediction = start[row : row + 1], torch.full((1, 1, 2, 2), 9.0)
            for now, then in zip(times[:-1], times[1:], strict=True):
                latents = process.move(latents, prediction, now[None], then[None]).float()
            torch.testing.assert_close(made.noisy[row], latents[0])
            assert made.time[row] == times[-1]
        assert bool((made.target == 9).all())

    def test_a_row_is_read_as_often_as_its_way_is_long(self) -> None:
        source, network = PolicyStates(steps=10), Line()
        source.states(rows(network, torch.tensor([0.05, 0.55, 0.95])))
        assert [len(each) for each in network.asked] == [1] * 5 + [2] * 4 + [3, 3]
        assert network.asked[0] == pytest.approx([1.0])
        assert network.asked[-2] == pytest.approx([0.15, 0.65, 1.0])
        assert network.asked[-1] == pytest.approx([0.05, 0.55, 0.95])

    def test_all_the_way_is_a_picture(self) -> None:
        source, network, process = PolicyStates(steps=5), Line(0.7), RectifiedFlow(kind="ode")
        made = source.states(rows(network, torch.zeros(2)))
        start = normal([("rejected", *key) for key in KEYS[:2]], (1, 2, 2))
        torch.testing.assert_close(made.noisy, sample_latents(process, network, start, 5))


@pytest.mark.parametrize("make", [lambda: EarlierSelves(every=2, kept=3), lambda: PolicyStates(every=3)])
def test_a_saved_state_goes_on_to_the_bit(make) -> None:
    one, other, network = make(), make(), Line()
    for _ in batches(one, network, 7):
        pass
    other.load_state_dict(one.state_dict())
    for source in (one, other):
        for _ in batches(source, network, 4, first=7):
            pass
    share = torch.tensor([0.2, 0.4, 0.6])
    for a, b in zip(one.states(rows(network, share)), other.states(rows(network, share)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (EarlierSelves, {"every": 0}, "EarlierSelves.every is 0; expected at least 1 training batch"),
        (EarlierSelves, {"kept": 0}, "EarlierSelves.kept is 0; expected at least 1 snapshot"),
        (PolicyStates, {"every": -1}, "PolicyStates.every is -1"),
        (PolicyStates, {"steps": 0}, "PolicyStates.steps is 0; expected at least 1"),
    ],
)
def test_settings_out_of_range(kind, settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**settings)
