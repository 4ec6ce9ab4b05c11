"""Checkpoints on disk: written under another name, completed by a manifest, and validated when they are read.

`RUN_DIR/checkpoints` holds `batch-000200.ckpt` (a file, or a folder of shards), `batch-000200.json` (its manifest:
sizes, sha256, batches, processes, version) and the link `last.ckpt` to the newest. A checkpoint without a matching
manifest is corrupt.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prl import __version__
from prl.system.outputs import sync

log = logging.getLogger(__name__)

LAST = "last.ckpt"
REST = "rest.pt"
"""File in a folder of shards with everything that is not sharded."""
_LINK = "last.link"
"""Name of a new link before it replaces `last.ckpt`."""
_NAME = re.compile(r"batch-(\d+)\.(?:ckpt|partial)")


class CheckpointError(ValueError):
    """A checkpoint that is missing or corrupt."""


def partial_path(folder: Path, batches: int) -> Path:
    """Return the path under which the checkpoint after `batches` batches is written before it is complete."""
    return folder / f"batch-{batches:06d}.partial"


def publish(partial: Path, *, world_size: int) -> Path:
    """Move a written checkpoint into place: synced, then moved, then its manifest, then `last`.

    A process that is killed between two of these steps leaves the previous checkpoint as the newest complete one.

    Args:
        partial: file or folder at `partial_path(...)`.
        world_size: processes that wrote the checkpoint.

    Returns:
        The path of the checkpoint.
    """
    folder, final = partial.parent, partial.with_suffix(".ckpt")
    manifest = manifest_of(final)
    files = {}
    for path in _files(partial):
        sync(path)  # before hashing, which would otherwise wait for the disk
        files[_listed_as(path, partial, final.name)] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    _remove(manifest)  # manifest of a checkpoint of the same batch, which is replaced
    _remove(final)
    partial.rename(final)
    text = {"batches": batches_of(final), "world_size": world_size, "prl": __version__, "files": files}
    written = manifest.with_suffix(".manifest")
    written.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    sync(written)
    sync(folder)
    written.rename(manifest)
    _point_last_at(final)
    sync(folder)
    return final


def prune(folder: Path, newest: int, keep: int) -> None:
    """Keep `newest` and the complete checkpoints before it, `keep` in all; delete the others.

    Later checkpoints are deleted too: they are corrupt, or of batches that the run trains again.
    """
    kept = 0
    for path in _newest_first(folder):
        whole = path.suffix == ".ckpt" and batches_of(path) <= newest and manifest_of(path).is_file()
        if whole and kept < keep:
            kept += 1
        else:
            remove(path)
    _remove_half_manifests(folder)


def clear(folder: Path) -> None:
    """Delete all checkpoints of a run that starts from the beginning."""
    _remove(folder / LAST)
    for path in list(_newest_first(folder)):
        remove(path)
    _remove_half_manifests(folder)


def holds_checkpoints(folder: Path) -> bool:
    """Return whether any checkpoint in the folder was ever complete; it may be corrupt now.

    A run that was killed before its first manifest has none, and can only start from the beginning.
    """
    return os.path.lexists(folder / LAST) or any(os.path.lexists(manifest_of(path)) for path in _newest_first(folder))


def was_cut_off(folder: Path) -> bool:
    """Return whether the folder holds nothing but a first checkpoint whose writing was interrupted."""
    return not holds_checkpoints(folder) and len(_newest_first(folder)) == 1


def finish_move(folder: Path, newest: Path) -> None:
    """Point `last` at the newest complete checkpoint, where a process was killed after writing the manifest."""
    link = folder / LAST
    if link.is_symlink() and link.resolve() != newest.resolve() or not os.path.lexists(link):
        _point_last_at(newest)
    (folder / _LINK).unlink(missing_ok=True)


def find_corruption(path: Path) -> str | None:
    """Describe the first damage of a checkpoint; None for a valid one.

    A checkpoint without a manifest, such as a copy or one of Lightning's own, is only checked for its file type.
    """
    path = _named(path)
    if path.suffix == ".partial":
        return "it was being written when the run ended"
    manifest = manifest_of(path)
    if not _NAME.fullmatch(path.name):
        if path.is_file() and not zipfile.is_zipfile(path):
            return f"{path.stat().st_size} bytes that do not end like a checkpoint"
        return None
    if not manifest.is_file():
        return f"it has no manifest {manifest.name}: the run ended before the checkpoint was whole"
    try:
        return _compared(path, _read_manifest(manifest))
    except OSError as error:
        return f"it cannot be read: {error}"


def _read_manifest(manifest: Path) -> dict[str, Any] | None:
    """Read a manifest; None for text of another shape."""
    try:
        text = json.loads(manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    files = text.get("files") if isinstance(text, dict) else None
    if not isinstance(files, dict) or not isinstance(text.get("batches"), int):
        return None
    whole = all(isinstance(each, dict) and {"size", "sha256"} <= each.keys() for each in files.values())
    return text if whole else None


def _compared(path: Path, manifest: dict[str, Any] | None) -> str | None:
    """Compare a checkpoint with its manifest; return the first difference in words."""
    name = manifest_of(path).name
    if manifest is None:
        return f"its manifest {name} cannot be read"
    listed, there = manifest["files"], {_listed_as(file, path, path.name): file for file in _files(path)}
    if manifest["batches"] != batches_of(path):
        return f"its manifest {name} is that of the checkpoint after {manifest['batches']} batches"
    if foreign := sorted(key for key in listed if key != path.name and not key.startswith(f"{path.name}/")):
        return f"its manifest {name} speaks of another file, {foreign[0][:80]}"
    if missing := sorted(listed.keys() - there.keys()):
        return f"{missing[0][:80]} is missing"
    if unlisted := sorted(there.keys() - listed.keys()):
        return f"{unlisted[0]} is missing in its manifest {name}"
    for key, file in there.items():
        expected = listed[key]
        if file.stat().st_size != expected["size"]:
            return f"{key} has {file.stat().st_size} bytes, its manifest says {expected['size']}"
        if _sha256(file) != expected["sha256"]:
            return f"{key} has the right size but other bytes than its manifest says (sha256)"
    return None


def _listed_as(file: Path, root: Path, name: str) -> str:
    """Return the name of a file in a manifest: the checkpoint's name, then the path inside a folder."""
    return "/".join((name, *file.relative_to(root).parts))


def latest_valid(folder: Path) -> Path:
    """Find the newest valid checkpoint of a run; warn of corrupt ones after it.

    Raises:
        CheckpointError: when there is none.
    """
    faults: list[str] = []
    for path in _newest_first(folder):
        wrong = find_corruption(path)
        if wrong is None:
            if faults:
                log.warning("%s; continuing from %s, the newest whole one", "; ".join(faults), path)
            return path
        faults.append(f"checkpoint {path} is torn: {wrong}")
    if not faults and (folder / LAST).is_file():
        faults = [f"{folder / LAST} is a file without manifest; give its path to use it as it is"]
    detail = ("no whole checkpoint is left: " + "; ".join(faults)) if faults else f"{folder / LAST} does not exist"
    raise CheckpointError(detail)


def valid_checkpoints(folder: Path) -> list[Path]:
    """List all valid checkpoints of a run, newest first."""
    return [path for path in _newest_first(folder) if find_corruption(path) is None]


def batches_of(path: Path) -> int:
    """Parse the number of training batches from a checkpoint's name; -1 for another name."""
    found = _NAME.fullmatch(_named(path).name)
    return int(found.group(1)) if found else -1


def _named(path: Path) -> Path:
    """Resolve the link `last`.

    A checkpoint that is itself a link, to another disk say, keeps its own name and manifest.
    """
    if path.is_symlink() and not _NAME.fullmatch(path.name):
        path = path.parent / path.readlink()
    return path


def manifest_of(path: Path) -> Path:
    """Return the path of a checkpoint's manifest."""
    return path.with_suffix(".json")


def remove(path: Path) -> None:
    """Delete a checkpoint: the manifest first, so that a partly deleted one never counts as complete."""
    if path.suffix == ".ckpt":
        _remove(manifest_of(path))
    _remove(path)


def discard(partial: Path) -> None:
    """Delete an incomplete checkpoint, so that it takes no space on a full disk."""
    final = partial.with_suffix(".ckpt")
    _remove(partial)
    manifest_of(final).with_suffix(".manifest").unlink(missing_ok=True)
    if not manifest_of(final).is_file():
        _remove(final)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_half_manifests(folder: Path) -> None:
    for path in folder.glob("batch-*.manifest"):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("batch-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (batches_of(path), path.name), reverse=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.rglob("*") if each.is_file())
    else:
        yield path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point_last_at(path: Path) -> None:
    link = path.with_name(_LINK)
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(path.with_name(LAST))
    except OSError as error:  # a file system without links: `--ckpt_path last` does not need this one
        log.warning("%s could not be pointed at %s (%s); name the checkpoint itself", LAST, path.name, error)


def summary(path: Path) -> dict[str, Any]:
    """Read the manifest of a valid checkpoint."""
    return json.loads(manifest_of(_named(path)).read_text(encoding="utf-8"))
