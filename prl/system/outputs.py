"""Output of commands: complete or not at all, and never over an input or a file that prl did not write.

Output is written under another name in the target's folder, synced, and then moved.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prl.system.full_disk import naming_when_full


class OutputError(ValueError):
    """A path that may not be written to."""


# ---- may this be written


def check_file(
    path: Path, option: str, is_own: Callable[[Path], bool] | None = None, inputs: Iterable[Path | str | None] = ()
) -> None:
    """Refuse a file that is an input of the same command, or that exists and prl did not write for this purpose.

    Args:
        path: file that the command will write.
        option: command line option of the file, for the message.
        is_own: returns whether an existing file is an earlier result of the same kind; None accepts no existing file.
        inputs: files and folders that the command reads; other values (hub ids, None) are skipped.

    Raises:
        OutputError: naming the file.
    """
    for given in inputs:
        source = None if given is None else Path(given).expanduser()
        if source is None or not source.exists() or not path.exists():
            continue
        if source.samefile(path) or (source.is_dir() and source.resolve() in path.resolve().parents):
            raise OutputError(f"{option} {path} is read by this command ({source}); choose another name")
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise OutputError(f"{option} {path} is a folder; expected a file")
    if is_own is None or not is_own(path):
        raise OutputError(
            f"{option} {path} exists and is no earlier result of this command, so it is left as it is; choose another "
            "name, or move it away"
        )


def check_folder(path: Path, option: str) -> None:
    """Refuse a folder that holds anything.

    Raises:
        OutputError: naming the folder.
    """
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{option} {path} holds something already; choose a new folder")


def json_with(*names: str) -> Callable[[Path], bool]:
    """Return whether a file is a JSON object with these fields."""
    return lambda path: isinstance(found := _json(path), dict) and set(names) <= found.keys()


def lines_with(*names: str) -> Callable[[Path], bool]:
    """Return whether the first line of a file is a JSON object with exactly these fields, or the file is empty."""

    def is_own(path: Path) -> bool:
        with path.open("rb") as file:
            first = file.readline()
        try:
            return not first or json.loads(first).keys() == set(names)
        except (ValueError, AttributeError):
            return False

    return is_own


def is_own_picture(path: Path) -> bool:
    """Return whether a file is a picture that `save_picture` wrote."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return str(picture.info.get("Software", "")).startswith("prl")
    except (UnidentifiedImageError, OSError, ValueError):
        return False


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


# ---- atomic writes


def partial_path(path: Path) -> Path:
    """Return the path under which output is written before it is complete: an unused name in the same folder."""
    return path.with_name(f".prl.{path.name}.partial")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, and move it into place at the end; after an error it is deleted."""
    partial = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming_when_full(path):
            yield partial
            sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_picture(figure: Any, path: Path) -> None:
    """Write a PNG atomically, marked as written by prl."""
    with writing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": "prl"})


@contextmanager
def writing_folder(folder: Path, keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Fill a folder beside `folder`, and move it into place at the end; after an error it is deleted.

    Args:
        folder: target; an existing folder is replaced.
        keep: returns whether an entry of the replaced folder moves into the new one.
    """
    folder = folder.resolve()  # a link stays, and its target is replaced
    if folder.is_mount():
        with _filling(folder, keep) as partial:
            yield partial
        return
    partial, old = partial_path(folder), partial_path(folder).with_suffix(".old")
    _finish_replacing(folder, old, keep)  # left by a killed process
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming_when_full(folder):
            yield partial
            for path in sorted(partial.rglob("*")):
                sync(path)
            sync(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
        _finish_replacing(folder, old, keep)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _filling(folder: Path, keep: Callable[[Path], bool] | None) -> Iterator[Path]:
    """Fill a folder inside one that cannot be moved, such as a mount point; its contents move up at the end."""
    partial = folder / ".prl.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with naming_when_full(folder):
            yield partial
        for path in sorted(folder.iterdir()):
            if path == partial or (keep is not None and keep(path)):
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)
        sync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish_replacing(folder: Path, old: Path, keep: Callable[[Path], bool] | None) -> None:
    """Move kept entries of the old folder into the new one and delete the old; without a new one, restore the old."""
    if not old.is_dir():
        return
    if not folder.exists():
        old.rename(folder)
        return
    for path in sorted(old.iterdir()) if keep is not None else ():
        if keep is not None and keep(path):
            path.replace(folder / path.name)
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Sync a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
