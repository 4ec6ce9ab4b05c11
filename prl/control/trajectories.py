"""Files of trajectories and preferences between their segments, checked when they are read."""

import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from prl.data.rows.sources import DataError
from prl.system.outputs import writing


@dataclass(frozen=True)
class PreferenceData:
    """Trajectories, and pairs of their segments of which one is preferred. Rewards are not part of it.

    A segment begins at a step of a trajectory; how long it is, the reader decides.
    """

    states: np.ndarray
    """Before each step [N, T, S], float32; beyond the length of a trajectory anything."""
    actions: np.ndarray
    """Of each step [N, T, A], float32 in [-1, 1]."""
    lengths: np.ndarray
    """Steps of each trajectory [N], int64."""
    chosen: np.ndarray
    """Trajectory and first step of the preferred segment of each pair [P, 2], int64, both from 0."""
    rejected: np.ndarray
    """The same of the other segment [P, 2]."""

    @property
    def is_step(self) -> np.ndarray:
        """Which entries are steps of a trajectory: [N, T]."""
        return np.arange(self.states.shape[1]) < self.lengths[:, None]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute mean and standard deviation of the states of all steps: [S] each."""
        steps = self.states[self.is_step].astype(np.float64)
        return steps.mean(0).astype(np.float32), steps.std(0).astype(np.float32)


NAMES = tuple(each.name for each in fields(PreferenceData))
DIMENSIONS = {"states": "N, T, S", "actions": "N, T, A", "lengths": "N", "chosen": "P, 2", "rejected": "P, 2"}
BROKEN = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, SyntaxError, TypeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What numpy and zipfile raise for damaged files."""
WHOLE = ("lengths", "chosen", "rejected")
"""Arrays of whole numbers."""


def write_data(data: PreferenceData, path: Path) -> None:
    """Write the arrays into one .npz file, whole or not at all. Equal data give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: getattr(data, name) for name in NAMES})


def read_data(path: str | Path) -> PreferenceData:
    """Read a file of `write_data`, or one with the same arrays.

    Raises:
        DataError: naming the file, the array and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not there; `prl control --out FOLDER` writes train.npz and validation.npz")
    try:
        with zipfile.ZipFile(path):  # numpy would take other kinds of file too
            pass
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive.files]
            found = {} if missing else {name: archive[name] for name in NAMES}
    except BROKEN as error:
        raise DataError(f"{path} is no whole .npz file of plain arrays: {error or type(error).__name__}") from None
    if missing:
        raise DataError(f"{path} has no array {missing[0]}; expected {', '.join(NAMES)}")
    try:
        return checked(**found)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def checked(**arrays: np.ndarray) -> PreferenceData:
    """Check the arrays of a data set, and give them their types. Raises ValueError for the first that is wrong."""
    for name, array in arrays.items():
        whole, dimensions = name in WHOLE, DIMENSIONS[name]
        if array.dtype.kind not in ("iu" if whole else "f"):
            raise ValueError(f"{name} are {array.dtype}; expected {'whole' if whole else 'floating-point'} numbers")
        if array.ndim != dimensions.count(",") + 1 or 0 in array.shape:
            raise ValueError(f"{name} have shape {array.shape}; expected [{dimensions}], none of them 0")
    made = {name: array.astype(np.int64 if name in WHOLE else np.float32) for name, array in arrays.items()}
    data = PreferenceData(**made)
    count, steps = data.states.shape[:2]
    if data.actions.shape[:2] != (count, steps) or data.lengths.shape != (count,):
        raise ValueError(
            f"states are {data.states.shape}, actions {data.actions.shape} and lengths {data.lengths.shape}; "
            "expected as many trajectories and steps in each"
        )
    _refuse("lengths", (data.lengths < 1) | (data.lengths > steps), data.lengths, f"1 to {steps} steps")
    for name in ("states", "actions"):
        array = getattr(data, name)
        _refuse(name, ~np.isfinite(array) & data.is_step[..., None], array, "a finite number")
    _refuse("actions", (abs(data.actions) > 1) & data.is_step[..., None], data.actions, "a number in [-1, 1]")
    _check_pairs(data)
    return data


def _check_pairs(data: PreferenceData) -> None:
    if data.chosen.shape != data.rejected.shape or data.chosen.shape[1] != 2:
        raise ValueError(
            f"chosen are {data.chosen.shape} and rejected {data.rejected.shape}; expected a trajectory and a first "
            "step for each pair in both"
        )
    for name in ("chosen", "rejected"):
        trajectories, starts = getattr(data, name).T
        count = len(data.lengths)
        _refuse(f"{name}[:, 0]", (trajectories < 0) | (trajectories >= count), trajectories, f"0 to {count - 1}")
        outside = (starts < 0) | (starts >= data.lengths[trajectories])
        _refuse(f"{name}[:, 1]", outside, starts, "a step of its trajectory")
    same = (data.chosen == data.rejected).all(1)
    _refuse("rejected", same, data.rejected[:, 0], "another segment than chosen")


def _refuse(name: str, wrong: np.ndarray, array: np.ndarray, expected: str) -> None:
    if wrong.any():
        place = tuple(int(each) for each in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} at {list(place)} is {array[place]}; expected {expected} ({int(wrong.sum())} are wrong)"
        )
