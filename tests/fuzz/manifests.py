"""What stands beside a checkpoint: its manifest, and the run ledger. A torn one must leave the checkpoint before it."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from prl.checkpoints.files import batches_of, find_corruption, latest_valid, partial_path, publish, valid_checkpoints
from prl.checkpoints.ledger import LEDGER, compare, read_ledger
from tests.fuzz import mutated, mutated_value

MANIFEST = "batch-000004.json"
LINES = [
    {"session": {"prl": "0.1.0", "torch": "2", "processes": 1, "config.yaml": "0123456789abcdef"}, "batches": 0},
    *({"batch": n, "data": "a", "rng": "b", "numbers": {"train/loss": 0.5}, "weights": [0.1]} for n in (1, 2, 3)),
]


def checkpoints(folder: Path) -> dict[str, Any]:
    """Two whole checkpoints; the manifest of the second."""
    for batches in (2, 4):
        partial = partial_path(folder, batches)
        partial.write_bytes(b"weights after %d batches" % batches)
        publish(partial, world_size=1)
    return json.loads((folder / MANIFEST).read_text())


@cache
def values() -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="prl-fuzz-manifests-") as folder:
        return {MANIFEST: checkpoints(Path(folder)), LEDGER: LINES}


def as_bytes(name: str, value: Any) -> bytes:
    lines = value if name == LEDGER and isinstance(value, list) else [value]
    return "".join(json.dumps(each) + "\n" for each in lines).encode(errors="replace")


@cache
def inputs() -> dict[str, bytes]:
    return {name: as_bytes(name, value) for name, value in values().items()}


def changed(draw: random.Random, good: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw.choice(sorted(good))
    if draw.random() < 0.4:
        return name, mutated(draw, good[name], good[draw.choice(sorted(good))])
    return name, as_bytes(name, mutated_value(draw, values()[name]))


def read(path: Path) -> None:
    if path.name == LEDGER:
        before, _ = read_ledger(path)
        compare([*before.values()], [*before.values()], 1e-4)
        return
    content = path.read_bytes()
    checkpoints(path.parent)
    path.write_bytes(content)
    wrong = find_corruption(path.with_suffix(".ckpt"))
    found = latest_valid(path.parent)
    if batches_of(found) != (4 if wrong is None else 2) or found not in valid_checkpoints(path.parent):
        raise AssertionError(f"{wrong}: {found}")
