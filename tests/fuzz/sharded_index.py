"""The index and the rest of a checkpoint in parts."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.sharded import Part
from prl.checkpoints.sharded_metadata import INDEX


@cache
def checkpoint() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prl-fuzz-checkpoint-")) / "parts"
    wide, short = torch.arange(12.0), torch.arange(5).to(torch.bfloat16)
    parts = {"wide": Part(wide, 0, torch.Size([3, 4])), "short": Part(short, 0, torch.Size([5]))}
    sharded_files.write({"state_dict": parts, "epoch": 1}, folder)
    return folder


@cache
def inputs() -> dict[str, bytes]:
    return {name: (checkpoint() / name).read_bytes() for name in (INDEX, sharded_files.REST)}


def read(path: Path) -> None:
    folder = path.parent / "parts"
    shutil.copytree(checkpoint(), folder)
    shutil.copy(path, folder)
    sharded_files.read(folder)
