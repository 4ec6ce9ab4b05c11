import pytest
import torch

from prl.models.offload import CPU, Offload

DEVICE = torch.device("meta")  # any device that is not home


class Traveller:
    """Remembers where it was sent."""

    def __init__(self) -> None:
        self.places: list[torch.device] = []

    def to(self, device: torch.device) -> None:
        self.places.append(device)


def test_a_model_is_on_the_device_while_it_works_and_at_home_otherwise() -> None:
    model, offload = Traveller(), Offload(enabled=True)
    with offload.on_device(model, DEVICE), offload.on_device(model, DEVICE):
        assert model.places == [DEVICE]
    assert model.places == [DEVICE, CPU]
    with offload.on_device(model, DEVICE):
        pass
    assert model.places == [DEVICE, CPU] * 2


def test_it_comes_home_after_an_error_too() -> None:
    model, offload = Traveller(), Offload(enabled=True)
    with pytest.raises(RuntimeError), offload.on_device(model, DEVICE):
        raise RuntimeError
    assert model.places == [DEVICE, CPU]


def test_switched_off_nothing_moves() -> None:
    model, offload = Traveller(), Offload(enabled=False)
    offload.to_cpu(model, None)
    with offload.on_device(model, DEVICE), offload.on_device(None, DEVICE):
        pass
    assert model.places == []
