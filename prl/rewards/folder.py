"""Files beside the weights in the folder of a reward model or judge."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prl.models.loading import is_hub_id
from prl.models.location import JUDGE_FILE as JUDGE_FILE
from prl.models.model_card import renew_figures
from prl.objectives.skew_symmetric import SkewSymmetric
from prl.rewards.folder_checks import judge_fault
from prl.rewards.plain_model import plain_settings
from prl.system.json_files import read_object

TEMPLATE_FILE = "judge_template.jinja"
PASSPORT_FILE = "rm_passport.json"
TRAINING_FILE = "judge_training.json"


def judge_kind(folder: str | Path) -> str | None:
    """Return the kind of the judge in a folder; None where there is none."""
    return read_judge_file(folder)["kind"] if (Path(folder) / JUDGE_FILE).is_file() else None


def judge_folder(path: str | Path) -> str:
    """Find the local folder of a judge: `path` itself, or the snapshot of a hub id.

    The hub is asked once per process, and files stay in Hugging Face's cache; HF_HUB_OFFLINE=1 reads the cache alone.

    Raises:
        ValueError: when the hub has no such judge, or cannot be reached and the cache has none.
    """
    return _download(str(path)) if is_hub_id(str(path)) else str(path)


@cache
def _download(hub_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
    except Exception as error:  # the hub client raises many unrelated classes
        raise ValueError(
            f"{hub_id} is neither a folder here nor a judge on the hub (looked for {Path(hub_id).absolute()}; "
            f"{type(error).__name__}: {error})"
        ) from None


def read_judge_file(folder: str | Path) -> dict[str, Any]:
    """Read the judge's settings beside its weights, or choose those of a model that prl did not make.

    Raises:
        ValueError: when the folder is missing or holds no such model, or the file is damaged.
    """
    path = Path(folder) / JUDGE_FILE
    if path.is_file():
        try:
            settings = {"kind": None, **read_object(path)}
            wrong = judge_fault(settings)
        except ValueError as error:
            wrong = str(error)
        if wrong is not None:
            raise ValueError(f"{path} is damaged ({wrong}); export the judge again, or copy the file anew")
        return settings
    if (path.parent / TEMPLATE_FILE).is_file():  # which only a judge of prl's has: its default settings would be wrong
        raise ValueError(
            f"{path} does not exist, but {TEMPLATE_FILE} beside it says that prl trained this judge; copy the file "
            "anew, or export the judge again"
        )
    if (plain := plain_settings(path.parent)) is not None:
        return plain
    if (path.parent / "model" / JUDGE_FILE).is_file():
        raise ValueError(f"{folder} is the folder of a run; its judge is in {path.parent / 'model'}")
    if path.parent.suffix == ".ckpt":
        raise ValueError(
            f"{folder} is a checkpoint; `prl export --checkpoint {folder} --output DIR` makes a judge of it"
        )
    if not path.parent.exists():
        raise ValueError(f"judge folder {folder} does not exist; give the folder that training or `prl export` wrote")
    raise ValueError(
        f"{path} does not exist: {folder} is not a judge, nor a causal language model or classifier with a "
        "config.json, nor a .gguf file. Train a judge with `prl fit --config "
        "configs/quickstart/generative_reward.yaml`, or give the folder it wrote"
    )


def made_elsewhere(folder: str | Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the weights of a judge were not trained as one: a plain model, or settings that name one."""
    return "model" in settings or not (Path(folder) / JUDGE_FILE).is_file()


def head_weights_of(settings: Mapping[str, Any]) -> tuple[float, ...]:
    """Weight of each head of a scalar reward model in its reward; one head that is the reward unless its file says."""
    return tuple(settings.get("head_weights", (1.0,)))


def outputs_of(settings: Mapping[str, Any]) -> int:
    """Count the numbers that the model of a judge of single responses gives each of them."""
    given = settings.get("preference")
    return len(head_weights_of(settings)) if given is None else SkewSymmetric(**given).outputs


def head_names_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Name of each head of a scalar reward model; none where its file has no names."""
    return tuple(settings.get("head_names", ()))


def discard_passport(folder: str | Path) -> None:
    """Delete passport and training record of weights that are about to be replaced, and the card's figures.

    Raises:
        ValueError: when the folder is a file.
    """
    if Path(folder).is_file():
        raise ValueError(f"{folder} is a file; expected a folder, new or of a judge that is to be replaced")
    for name in (PASSPORT_FILE, TRAINING_FILE):
        (Path(folder) / name).unlink(missing_ok=True)
    renew_figures(folder, None)
