"""Base of a model: what it was trained from, by name and by its weights."""

import hashlib
from pathlib import Path

from prl.config import ModelSource
from prl.models.location import base_of, is_hub_id, linked_model
from prl.models.model_card import base_model_id
from prl.rewards.folder import judge_folder

Base = dict[str, str | None]
"""`name`, the hub id that the weights come from, and `weights_sha256`, of the weights; null where unknown."""

_PICKLED = ("pytorch_model*.bin", "adapter_model*.bin")
"""Weights in the older format; other .bin files, as training_args.bin, are none."""


def weights_hash(folder: str | Path) -> str:
    """Hash the contents of a folder's files of weights, in the order of their names, or of a .gguf file.

    Raises:
        ValueError: when there are no weights.
    """
    digest = hashlib.sha256()
    folder = judge_folder(linked_model(str(folder)) or folder)
    if not (files := _weight_files(Path(folder))):
        raise ValueError(f"{folder} holds no .safetensors nor .bin file of weights, so there is nothing to measure")
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(place: Path) -> list[Path]:
    """List the files of weights that transformers reads: safetensors where there are some, else pickled ones."""
    if place.suffix == ".gguf":
        return [place]
    pickled = (path for name in _PICKLED for path in place.glob(name))
    return sorted(place.glob("*.safetensors")) or sorted(pickled)


def base_hash(folder: str | Path) -> str | None:
    """Hash the weights below the adapters of a folder, or of the model that it names; None for a full model."""
    base = base_of(linked_model(str(folder)) or str(folder))
    return None if base is None else weights_hash(judge_folder(base))


def base_of_source(source: ModelSource) -> Base:
    """Describe the model that a training starts from; of adapters, the model below them.

    The name is the hub id, also of a folder whose card names one. Weights on the hub are not hashed.
    """
    if source.path is None:  # random weights
        return {"name": None, "weights_sha256": None}
    place = base_of(source.path) or source.path
    place = linked_model(place) or place
    local = Path(place).expanduser()
    weights = weights_hash(local) if not is_hub_id(str(local)) and _weight_files(local) else None
    return {"name": base_model_id(place) or base_model_id(source.path), "weights_sha256": weights}


def is_same_base(one: Base, other: Base) -> bool | None:
    """Tell whether two models come from one; None where that is not known.

    Equal weights are one model. Names are compared where both are known: of other weights nothing follows, since either
    may be a trained copy of a third model.
    """
    if one["weights_sha256"] is not None and one["weights_sha256"] == other["weights_sha256"]:
        return True
    if one["name"] is not None and other["name"] is not None:
        return one["name"] == other["name"]
    return None
