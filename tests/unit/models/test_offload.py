import pytest
import torch

from prl.models.offload import HOME, Residence

DEVICE = torch.device("meta")  # any device that is not home


class Traveller:
    """Remembers where it was sent."""

    def __init__(self) -> None:
        self.places: list[torch.device] = []

    def to(self, device: torch.device) -> None:
        self.places.append(device)


def test_a_model_is_on_the_device_while_it_works_and_at_home_otherwise() -> None:
    model, residence = Traveller(), Residence(enabled=True)
    with residence.of(model, DEVICE), residence.of(model, DEVICE):
        assert model.places == [DEVICE]
    assert model.places == [DEVICE, HOME]
    with residence.of(model, DEVICE):
        pass
    assert model.places == [DEVICE, HOME] * 2


def test_it_comes_home_after_an_error_too() -> None:
    model, residence = Traveller(), Residence(enabled=True)
    with pytest.raises(RuntimeError), residence.of(model, DEVICE):
        raise RuntimeError
    assert model.places == [DEVICE, HOME]


def test_switched_off_nothing_moves() -> None:
    model, residence = Traveller(), Residence(enabled=False)
    residence.send_home(model, None)
    with residence.of(model, DEVICE), residence.of(None, DEVICE):
        pass
    assert model.places == []
