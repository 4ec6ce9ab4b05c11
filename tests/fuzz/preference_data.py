"""Files of trajectories and preferences between them, read by prl/control."""

import tempfile
from functools import cache
from pathlib import Path

from prl.control import DataSettings, make_data, read_data, write_data
from prl.data import DataError

EXPECTED = DataError


@cache
def inputs() -> dict[str, bytes]:
    """Make a small data set."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        write_data(make_data(DataSettings(trajectories=3, pairs=5), seed=0), path)
        return {path.name: path.read_bytes()}


def read(path: Path) -> None:
    """Read and check it."""
    read_data(path)
