"""Random states go there and back, on as many processes as before or on others."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.callbacks import RandomStates, random_states
from prl.checkpoints.random_states import forked, set_random_states


def draws() -> list[float]:
    """Of every generator; normal draws come in twos, of which one is kept."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_every_generator_goes_on_where_it_was() -> None:
    draws()
    states = random_states.random_states()
    expected = [draws(), draws()]
    draws()
    set_random_states(states)
    assert [draws(), draws()] == expected


def test_draws_inside_are_those_of_the_seed_and_outside_as_without() -> None:
    before = random_states.random_states()
    expected = draws()
    set_random_states(before)
    with forked(7):
        inside = torch.rand(3).tolist()
    assert draws() == expected
    with forked(7):
        assert torch.rand(3).tolist() == inside
    with forked(8):
        assert torch.rand(3).tolist() != inside


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this process one of several."""

    def become(rank: int, of: int) -> None:
        monkeypatch.setattr(random_states, "rank", lambda: rank)
        monkeypatch.setattr(random_states, "world_size", lambda: of)

    return become


def first_draws(callback: RandomStates) -> list[float]:
    trainer: Any = None
    callback.on_train_batch_start(trainer, trainer, None, 0)
    return torch.rand(4).tolist()


def test_each_process_goes_on_with_its_own_draws(process: Any) -> None:
    saved, expected = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        saved.append(random_states.random_states())
        expected.append(torch.rand(4).tolist())
    for rank in (0, 1):
        process(rank, of=2)
        callback = RandomStates()
        callback.load_state_dict({"ranks": saved})
        kept = callback.state_dict()["ranks"][0]  # of a run that ends before its first batch
        assert torch.equal(kept["torch"], saved[rank]["torch"])
        assert first_draws(callback) == expected[rank]


def test_other_numbers_of_processes_draw_anew_each_its_own_and_the_same_every_time(process: Any, caplog: Any) -> None:
    saved = RandomStates().state_dict()
    found = []
    for rank in (0, 1, 0):
        process(rank, of=2)
        callback = RandomStates()
        callback.load_state_dict(saved)
        found.append(first_draws(callback))
    assert found[0] == found[2] != found[1]
    assert "written by 1 processes, this run has 2" in caplog.text


def test_processes_that_begin_alike_draw_apart(process: Any) -> None:
    found = []
    for rank in (0, 1):
        process(rank, of=2)
        torch.manual_seed(0)
        found.append(first_draws(RandomStates()))
    torch.manual_seed(0)
    assert found[0] == torch.rand(4).tolist() != found[1]
