"""Statistics over the rewards of a run: as those of all of them at once, in one process or in two."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.rewards.rule import RuleReward
from prl.rewards.shapers.running import RunningClip, RunningMeanStd, RunningMinMax, RunningShaper
from prl.rewards.weighted import WeightedReward
from prl.types import Scores
from tests.helpers.records import make_rollout, ragged_mask
from tests.helpers.two_processes import in_two_processes

KINDS = (RunningMeanStd, RunningClip, RunningMinMax)
BATCHES = st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5), min_size=1, max_size=4)


def apply(shaper: RunningShaper, rewards: Tensor) -> Tensor:
    return shaper(Scores(rewards), make_rollout(ragged_mask([1] * len(rewards)))).rewards


def of_all(kind: type, seen: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Apply the formula of the authors with the statistics of all rewards so far at once."""
    mean, std, low, high = seen.mean(), seen.std(), seen.min(), seen.max()
    if kind is RunningMeanStd:
        return (now - mean) / (std if std > 0 else 1.0)
    if kind is RunningClip:
        return np.clip(now, mean - std, mean + std)
    return (now - low) / (high - low if high > low else 1.0)


def test_a_batch_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, population variance 3.5
    assert apply(RunningMeanStd(), rewards).tolist() == pytest.approx([-1.069045, -0.534522, 0.0, 1.603567], abs=1e-6)
    assert apply(RunningClip(), rewards).tolist() == pytest.approx([1.129171, 2.0, 3.0, 4.870829], abs=1e-6)
    assert apply(RunningMinMax(), rewards).tolist() == pytest.approx([0.0, 0.2, 0.4, 1.0], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(batches=BATCHES)
def test_statistics_in_batches_are_those_of_all_rewards_at_once(kind: type, batches: list[list[float]]) -> None:
    shaper, seen = kind(), []
    for batch in batches:
        seen += batch
        found = apply(shaper, torch.tensor(batch))
        everything, now = np.array(seen), np.array(batch)
        if 0 < np.ptp(everything) < 1e-3:
            continue  # a deviation of rounding alone
        np.testing.assert_allclose(found.numpy(), of_all(kind, everything, now), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_without_a_reward_and_an_infinite_one_are_in_no_statistic(kind: type) -> None:
    plain, other = kind(), kind()
    apply(plain, torch.tensor([1.0, 4.0, -2.0]))
    found = apply(other, torch.tensor([1.0, torch.nan, 4.0, torch.inf, -2.0]))
    assert other.state_dict() == plain.state_dict()
    assert found.isnan().tolist() == [False, True, False, False, False]
    nothing = torch.tensor([torch.nan, torch.nan])
    assert apply(kind(), nothing).isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_on_to_the_bit(kind: type) -> None:
    whole, batches = kind(), [torch.randn(7) for _ in range(4)]
    expected = [apply(whole, each) for each in batches]
    cut = kind()
    for batch, wanted in zip(batches, expected, strict=True):
        saved, cut = cut.state_dict(), kind()
        cut.load_state_dict(saved)
        assert torch.equal(apply(cut, batch), wanted)
    assert cut.state_dict() == whole.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_batch_changes_no_bit(kind: type) -> None:
    """Rows lie on other processes, and so in another order, when there are more of them."""
    states = []
    for batch in itertools.permutations([1e10, 1e-7, -1e10, 3e-7]):
        shaper = kind()
        apply(shaper, torch.tensor(batch))
        states.append(shaper.state_dict())
    assert states == states[:1] * 24


def rewards_of_a_run() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    batches = [10.0 ** (3 * number) * torch.randn(9, generator=generator) for number in range(3)]
    batches[1][2] = torch.nan
    return batches


def shared(process: int) -> list[Any]:
    """Two rows of each batch on the first process, seven on the second."""
    rows = slice(0, 2) if process == 0 else slice(2, None)
    return [run(kind, lambda batch: batch[rows]) for kind in KINDS]


def run(kind: type, part: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
    shaper = kind()
    return [apply(shaper, part(batch)) for batch in rewards_of_a_run()], shaper.state_dict()


def test_two_processes_have_the_statistics_of_one_to_the_bit(tmp_path: Path) -> None:
    first, second = in_two_processes(shared, tmp_path)
    for number, kind in enumerate(KINDS):
        alone, state = run(kind, lambda batch: batch)
        assert first[number][1] == second[number][1] == state
        for whole, *parts in zip(alone, first[number][0], second[number][0], strict=True):
            assert torch.equal(torch.cat(parts).nan_to_num(-1e9), whole.nan_to_num(-1e9))


def test_a_single_source_has_no_shaper_with_a_state() -> None:
    with pytest.raises(ValueError, match=r"shaping of a source has \['RunningClip'\]"):
        WeightedReward({"rule": RuleReward()}, {"rule": 1.0}, {"rule": [RunningClip()]})
