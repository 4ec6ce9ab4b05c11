"""Hashes of a run's inputs that no checkpoint holds: frozen weights, tokenizers and templates in the folders of models.

A run that continues after one of these changed is another run, so checkpoints hold their hashes. Files are hashed in
full: sizes and times are not contents, and a sample of blocks misses a flipped bit. Hashing takes about a second per GB
and core, several files at once, and the model reads these files in any case.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prl.config import ModelSource
from prl.models.location import ADAPTERS, adapter_chain, base_of, is_hub_id, linked_model

Inputs = dict[str, str | int | float | bool | None]
"""Name of an input -> its hash, or the value of a setting."""

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_SETTINGS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_ABOUT = ("rm_passport.json", "judge_training.json")
"""Descriptive files, written after a model was trained; they change no number."""


def model_inputs(name: str, source: ModelSource) -> Inputs:
    """Hash the files of a model: weights and settings of its folder, base model under adapters, tokenizer."""
    found = folder_inputs(name, source.path) if source.path is not None else {}
    if source.tokenizer is not None:
        found |= folder_inputs(f"{name}.tokenizer", source.tokenizer, _SETTINGS)
    return found


def folder_inputs(name: str, path: str, suffixes: tuple[str, ...] = (*_WEIGHTS, *_SETTINGS)) -> Inputs:
    """Hash the files of a model folder, a .gguf file, or a hub id's files in the cache; and its base model."""
    place = _local(path)
    if place is None:
        return {}
    found = _own_inputs(name, place, suffixes)
    if (base := linked_model(str(place)) or base_of(str(place))) is not None:
        found |= folder_inputs(f"{name}.base", base, suffixes)
    return found


def _own_inputs(name: str, place: Path, suffixes: tuple[str, ...]) -> Inputs:
    files = [place] if place.is_file() else sorted(_read_of(place, suffixes))
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(file_hash, files)
    return {f"{name}/{file.name}": each for file, each in zip(files, hashes, strict=True)}


def inputs_before_download(name: str, source: ModelSource) -> Inputs:
    """Hash the files of a model as `model_inputs` does, but name id and commit of one on the hub.

    They are the same before its weights are downloaded and afterwards.

    Raises:
        ModelNotFoundError: for a model that is neither here nor on the hub.
    """
    from prl.models.loading import read_config

    assert source.path is not None
    read_config(source)  # of a model on the hub this asks which commit is the newest
    found: Inputs = {}
    for number, each in enumerate(adapter_chain(source.path)):
        part, place = name + ".base" * number, _local(each)
        if place is None or is_hub_id(each):
            found[part] = each if place is None else f"{each}@{place.name}"
        else:
            found |= _own_inputs(part, place, (*_WEIGHTS, *_SETTINGS))
    return found


def pipeline_inputs(name: str, path: str) -> Inputs:
    """Hash the files of a pipeline of diffusers: those of its folder, and of the folder of each part."""
    found = folder_inputs(name, path)
    place = _local(path)
    for part in sorted(place.iterdir()) if place is not None and place.is_dir() else ():
        if part.is_dir():
            found |= folder_inputs(f"{name}/{part.name}", str(part))
    return found


def _local(path: str) -> Path | None:
    if not is_hub_id(path):
        place = Path(path).expanduser()
        return place if place.exists() else None
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "tokenizer_config.json", ADAPTERS, "model_index.json"):
        if isinstance(cached := try_to_load_from_cache(path, name), str):
            return Path(cached).parent
    return None


def _read_of(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    """List the files of a folder that transformers reads; of weights in two forms, the safetensors."""
    files = [path for path in folder.iterdir() if path.suffix in suffixes and path.is_file()]
    safe = any(path.suffix == ".safetensors" for path in files)
    return [path for path in files if path.name not in _ABOUT and not (safe and path.suffix == ".bin")]


def file_hash(path: Path) -> str:
    """Return the first half of a file's sha256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


# ---- comparison


def with_current_names(before: Mapping[str, Any]) -> dict[str, Any]:
    """Rename inputs of a checkpoint to the names of this version: `model.judge` is now `model.reward`."""
    old = re.compile(r"^model\.judge(?=[./])")
    return {old.sub("model.reward", name): value for name, value in before.items()}


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Compare inputs: name of each changed input -> (value before, value now)."""
    names = [*before, *(name for name in now if name not in before)]
    return {
        name: f"{_shown(before, name)} at the checkpoint, {_shown(now, name)} now"
        for name in names
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    }


def _shown(inputs: Mapping[str, Any], name: str) -> str:
    if name not in inputs:
        return "not there"
    value = inputs[name]
    return f"sha256 {value[:12]}…" if isinstance(value, str) and len(value) == 32 else repr(value)


def is_accepted(name: str, accept: bool | list[str]) -> bool:
    """Return whether a change is accepted: true accepts all, a list accepts names and their groups."""
    if isinstance(accept, bool):
        return accept
    return any(name == each or name.startswith((f"{each}.", f"{each}/")) for each in accept)
