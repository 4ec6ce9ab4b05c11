"""Damaged files of a model folder: the name of the file, and its reader's error."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_OURS = (torch.OutOfMemoryError, MemoryError, ImportError)
"""Errors that have nothing to do with a file."""
LONGEST = 240
"""Characters of a reader's message that an error quotes."""


def damaged(file: Path, reason: object) -> ValueError:
    """Build the error for a file that its reader refused."""
    said = f"{type(reason).__name__}: {_in_a_line(reason)}" if isinstance(reason, Exception) else str(reason)
    return ValueError(f"{file} is damaged ({said}); copy it anew, or write the model again")


@contextmanager
def naming_damage(path: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the damaged file where a reader of a local model fails, in a ValueError.

    Readers of weights, configs and tokenizers raise many unrelated classes, most without a name. So each file is read
    again by itself. An error that no file explains names the folder, unless its class is in `but`.
    """
    try:
        yield
    except _OURS:
        raise
    except Exception as error:
        local = Path(path).expanduser()
        if not local.exists():
            raise
        for file in [local] if local.is_file() else sorted(local.iterdir()):
            if (reason := _find_corruption(file)) is not None:
                raise damaged(file, reason) from error
        if isinstance(error, but):
            raise
        if local.is_file():
            raise damaged(local, error) from error
        raise ValueError(f"the model in {path} cannot be read ({type(error).__name__}: {_in_a_line(error)})") from error


def check_file(file: Path) -> None:
    """Refuse a damaged file; a missing one is not checked. Raises ValueError."""
    if file.is_file() and (reason := _find_corruption(file)) is not None:
        raise damaged(file, reason)


def _find_corruption(file: Path) -> Exception | str | None:
    """Describe the damage of one file; None when its format is valid, or not known here."""
    try:
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.name.endswith(("config.json", "tokenizer.json", ".index.json")) and not isinstance(content, dict):
                return f"expected an object, found {type(content).__name__}"
            if file.name == "tokenizer.json":
                from tokenizers import Tokenizer

                Tokenizer.from_file(str(file))
        elif file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "pt"):
                pass
        elif file.suffix == ".bin":
            torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:  # torch's message advises to run it
        return "a pickle that is cut, or holds other things than tensors; nothing in it was run"
    except Exception as error:  # any error of a reader describes the damage
        return error
    return None


def _in_a_line(error: object) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
