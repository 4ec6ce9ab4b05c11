"""The task, its data, and files that are refused."""

import contextlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from prl.control import DataSettings, PointMass, PreferenceData, make_data, read_data, returns, write_data
from prl.control.environment import expert_policy, normalized, play, random_policy
from prl.control.point_mass import GOAL
from prl.data import DataError
from tests.fuzz import preference_data
from tests.fuzz.__main__ import input_of

SMALL = DataSettings(trajectories=12, pairs=60, segment=10)


@pytest.fixture(scope="module")
def data() -> PreferenceData:
    return make_data(SMALL, seed=3)


def arrays(data: PreferenceData) -> dict[str, np.ndarray]:
    return {each.name: getattr(data, each.name) for each in fields(data)}


# ---- the task


def test_a_step_by_hand() -> None:
    states = torch.tensor([[0.5, 0.1, 0.1, 0.0], [0.95, -0.99, 0.2, -0.1]])
    after, rewards = PointMass().step(states, torch.tensor([[1.0, -0.5], [1.0, 0.0]]))
    # Velocities 0.8 (0.1, 0) + 0.04 (1, -0.5), and 0.8 (0.2, -0.1) + 0.04 (1, 0); the second point meets both walls.
    torch.testing.assert_close(after, torch.tensor([[0.62, 0.08, 0.12, -0.02], [1.0, -1.0, 0.0, 0.0]]))
    torch.testing.assert_close(rewards, -torch.tensor([np.hypot(0.12, 0.42), np.hypot(0.5, 1.5)], dtype=torch.float32))


def test_a_policy_sees_the_past_and_acts_within_limits() -> None:
    seen = []

    def policy(states, actions, steps):
        seen.append((states.shape[1], actions[:, -1].abs().sum().item(), steps[0].tolist()))
        return torch.full((2, 2), 3.0)

    states, actions, _ = play(PointMass(), policy, 2, torch.Generator().manual_seed(0))
    assert seen == [(n, 0.0, list(range(n))) for n in range(1, PointMass.num_steps + 1)]
    assert actions.max() == 1.0
    assert states.shape == (2, PointMass.num_steps, 4)


def test_the_scale_runs_from_random_to_expert() -> None:
    task = PointMass()
    low, high = (returns(task, each, 50, 7) for each in (random_policy(task, 7), expert_policy(task)))
    assert normalized(task, low, 7) == pytest.approx(0)
    assert normalized(task, high, 7) == pytest.approx(100)
    assert high.mean() > low.mean() + 20
    assert torch.equal(high, returns(task, expert_policy(task), 50, 7))


# ---- the data


def test_equal_seeds_give_equal_files(data, tmp_path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        write_data(make_data(SMALL, seed), tmp_path / f"{name}.npz")
    one, again, other = ((tmp_path / f"{name}.npz").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other
    read = read_data(tmp_path / "one.npz")
    assert all(np.array_equal(x, y) for x, y in zip(arrays(read).values(), arrays(data).values(), strict=True))
    assert abs(read.actions).max() <= 1


def test_the_better_segment_is_chosen(data) -> None:
    """By sums of rewards recomputed from the places in the data."""
    distance = np.linalg.norm(data.states[:, 1:, :2] - np.array(GOAL), axis=-1)

    def total(segment) -> float:
        trajectory, start = segment
        return -distance[trajectory, start : start + SMALL.segment].sum()

    inside = [(c, r) for c, r in zip(data.chosen, data.rejected, strict=True) if max(c[1], r[1]) + 10 < 40]
    assert len(inside) > 40
    assert all(total(chosen) > total(rejected) for chosen, rejected in inside)


def test_ties_are_left_out() -> None:
    """Of two whole trajectories half the pairs are one trajectory twice."""
    data = make_data(DataSettings(trajectories=2, pairs=200, segment=PointMass.num_steps), seed=0)
    assert 70 < len(data.chosen) < 130
    assert np.unique(data.chosen[:, 0]).size == np.unique(data.rejected[:, 0]).size == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"segment": 41}, "an episode has 40"),
        ({"pairs": 0}, "pairs is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"weakest": 0.0}, "weakest 0.0"),
    ],
)
def test_settings_that_make_no_data(changed, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changed)


# ---- files


def broken(data: PreferenceData, name: str, where: Any, value: Any) -> dict[str, np.ndarray]:
    found = {each: array.copy() for each, array in arrays(data).items()}
    found[name][where] = value
    return found


@pytest.mark.parametrize(
    ("name", "where", "value", "words"),
    [
        ("states", (2, 5, 1), np.nan, r"states at \[2, 5, 1\] is nan; expected a finite number \(1 are wrong\)"),
        ("actions", (0, 0, 0), np.inf, r"actions at \[0, 0, 0\] is inf"),
        ("actions", (1, 3), -1.5, r"actions at \[1, 3, 0\] is -1.5; expected a number in \[-1, 1\] \(2 are wrong\)"),
        ("lengths", 4, 0, r"lengths at \[4\] is 0; expected 1 to 40 steps"),
        ("lengths", 4, 41, r"lengths at \[4\] is 41"),
        ("chosen", (7, 0), 12, r"chosen\[:, 0\] at \[7\] is 12; expected 0 to 11"),
        ("rejected", (7, 0), -1, r"rejected\[:, 0\] at \[7\] is -1"),
        ("rejected", (0, 1), 40, r"rejected\[:, 1\] at \[0\] is 40; expected a step of its trajectory"),
    ],
)
def test_numbers_that_are_refused(data, tmp_path, name, where, value, words) -> None:
    np.savez(tmp_path / "bad.npz", **broken(data, name, where, value))
    with pytest.raises(DataError, match=f"bad.npz: {words}"):
        read_data(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"chosen": None}, "no array chosen; expected states, actions, lengths, chosen, rejected"),
        ({"states": np.zeros((12, 40), np.float32)}, r"states have shape \(12, 40\); expected \[N, T, S\]"),
        ({"states": np.zeros((12, 40, 4), np.int64)}, "states are int64; expected floating-point numbers"),
        ({"lengths": np.full(12, 40.0)}, "lengths are float64; expected whole numbers"),
        ({"lengths": np.full(11, 40)}, r"lengths \(11,\); expected as many trajectories"),
        ({"actions": np.zeros((12, 39, 2))}, r"actions \(12, 39, 2\)"),
        ({"chosen": np.zeros((3, 2), int)}, r"chosen are \(3, 2\) and rejected"),
        ({"chosen": np.zeros((0, 2), int), "rejected": np.zeros((0, 2), int)}, r"chosen have shape \(0, 2\)"),
        ({"chosen": np.zeros((1, 2), int), "rejected": np.zeros((1, 2), int)}, "another segment than chosen"),
        ({"states": np.array([{}], dtype=object)}, "no whole .npz file of plain arrays"),
    ],
)
def test_arrays_that_are_refused(data, tmp_path, changed, words) -> None:
    found = {name: array for name, array in (arrays(data) | changed).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **found)
    with pytest.raises(DataError, match=f"bad.npz.*{words}"):
        read_data(tmp_path / "bad.npz")


def test_files_that_are_refused(data, tmp_path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match="is not there; `prl control"):
        read_data(path)
    write_data(data, path)
    whole = path.read_bytes()
    for content in (b"", b"states", whole[: len(whole) // 2], whole[:5000] + bytes(50) + whole[5050:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no whole .npz file"):
            read_data(path)
    np.save(tmp_path / "one.npy", data.states)
    with pytest.raises(DataError, match="no whole .npz file"):
        read_data(tmp_path / "one.npy")


def test_broken_inputs(tmp_path) -> None:
    """The first inputs of `python -m tests.fuzz preference_data`."""
    for number in range(40):
        name, content = input_of(preference_data, number)
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(preference_data.EXPECTED):
            preference_data.read(tmp_path / name)


def test_what_lies_beyond_a_trajectory_does_not_count(data, tmp_path) -> None:
    found = broken(data, "states", (0, slice(20, None)), np.nan)
    found["lengths"][0] = 20
    keep = (found["chosen"] != [0, 99]).all(1) & ~((found["chosen"][:, 0] == 0) | (found["rejected"][:, 0] == 0))
    found["chosen"], found["rejected"] = found["chosen"][keep], found["rejected"][keep]
    np.savez(tmp_path / "short.npz", **found)
    mean, deviation = read_data(tmp_path / "short.npz").statistics()
    steps = np.concatenate([data.states[0, :20], *data.states[1:]])
    np.testing.assert_allclose(mean, steps.mean(0), atol=1e-5)
    np.testing.assert_allclose(deviation, steps.std(0), atol=1e-5)
