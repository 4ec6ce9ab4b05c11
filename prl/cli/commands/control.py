"""`prl control`: write trajectories of a small control task and preferences between them, for OPPO."""

import argparse
import zipfile
from pathlib import Path

from prl.system.outputs import check_file

FILES = {"train": 0, "validation": 1}
"""Name of each file -> what its seed adds to twice the given one, so that no two files share a draw."""


def main(args: list[str]) -> None:
    """Make both files, and say what is in them."""
    parser = argparse.ArgumentParser("prl control", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/control/data"), help="folder of both files")
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    parser.add_argument("--trajectories", type=int, default=400, help="of the training file; the other has a quarter")
    parser.add_argument("--pairs", type=int, default=4000, help="compared for training; a quarter of them beside")
    parser.add_argument("--segment", type=int, default=20, help="steps of a segment, whose rewards are compared")
    options = parser.parse_args(args)
    for name in FILES:
        check_file(options.out / f"{name}.npz", f"the {name} file", _is_own)
    from prl.control import DataSettings, make_data, write_data

    for name, number in FILES.items():
        share = 1 if name == "train" else 4
        settings = DataSettings(-(-options.trajectories // share), -(-options.pairs // share), options.segment)
        data = make_data(settings, 2 * options.seed + number)
        path = options.out / f"{name}.npz"
        write_data(data, path)
        print(f"{path}: {len(data.lengths)} trajectories, {int(data.lengths.sum())} steps, {len(data.chosen)} pairs")


def _is_own(path: Path) -> bool:
    """Return whether a file has the arrays of an earlier result."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"states.npy", "chosen.npy", "rejected.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
