"""Linear layers whose weights are laid out for oneDNN."""

import pytest
import torch
from torch import nn

from prl.models import packed_linear
from prl.models.packed_linear import packed_linears
from tests.helpers.tiny import tiny_model


@pytest.fixture(autouse=True)
def _small_models_too(monkeypatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(packed_linear, "LEAST_BYTES", 0)


@torch.no_grad()
def test_products_are_those_of_torch_up_to_rounding_for_any_number_of_rows() -> None:
    model = nn.Sequential(nn.Linear(96, 40), nn.Linear(40, 300, bias=False))
    for shape in ((1,), (8,), (3, 1), (1, 1), (5, 7), (200,)):
        inputs = torch.randn(*shape, 96)
        expected = model.double()(inputs.double())
        with packed_linears(model.float(), 8, 100) as changed:
            assert changed == 2
            assert torch.allclose(model(inputs).double(), expected, rtol=1e-4, atol=1e-5)


def test_afterwards_the_layers_are_as_they_were_and_see_new_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(RuntimeError, match="stop"), packed_linears(model, 8, 100):
        raise RuntimeError("stop")
    assert "forward" not in model[0].__dict__
    with torch.no_grad():
        model[0].weight.zero_()
        for value in (1.0, 2.0):
            model[0].bias.fill_(value)
            with packed_linears(model, 8, 100):
                assert (model(torch.ones(2, 4)) == value).all()


def test_the_random_state_stays() -> None:
    state = torch.get_rng_state()
    with packed_linears(tiny_model(), 8, 100) as changed:
        assert changed > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_packed_or_would_not_pay_is_left(monkeypatch) -> None:
    model = nn.Sequential(nn.Linear(4, 3))

    def changed(each: nn.Module, rows: int = 8, passes: int = 100) -> int:
        with packed_linears(each, rows, passes) as number:
            return number

    assert changed(model) == 1
    assert changed(model, passes=3) == changed(model, rows=1) == 0
    assert changed(nn.Sequential(nn.Linear(4, 3).bfloat16())) == 0
    assert changed(nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(4, 3))) == 0
    with torch.autocast("cpu"):
        assert changed(model) == 0
    monkeypatch.setattr(packed_linear, "LEAST_BYTES", 1 << 20)
    assert changed(model) == 0


def test_operators_that_give_something_else_are_not_used(monkeypatch) -> None:
    monkeypatch.setattr(packed_linear, "_packed", lambda layer, rows: lambda inputs: layer(inputs) + 1)
    with packed_linears(nn.Sequential(nn.Linear(4, 3)), 8, 100) as changed:
        assert changed == 0


def test_copies_that_would_take_much_of_the_memory_are_not_made(monkeypatch) -> None:
    monkeypatch.setattr(packed_linear, "MOST_MEMORY", 1e-12)
    with packed_linears(nn.Sequential(nn.Linear(64, 64)), 8, 100) as changed:
        assert changed == 0
