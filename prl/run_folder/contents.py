"""Contents of a run folder; files that prl did not write are never overwritten or deleted."""

import json
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from prl.checkpoints.files import holds_checkpoints
from prl.models.location import MODEL_FILES
from prl.models.model_card import CARD, was_edited
from prl.rewards.folder import JUDGE_FILE
from prl.run_folder.sealed_config import HEAD

MODEL = "model"
DATA_REPORT = "data_report.json"
BEGUN_FILES = (
    "hparams.yaml",
    DATA_REPORT,
    "events.out.tfevents.*",
    "failures/rank*",
    "*.lock",
    ".lock.pid",
    ".prl*",
)
"""Paths in a run folder before config.yaml exists."""
PIPELINE_PARTS = (
    *("transformer", "unet", "vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder"),
    *(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")),
)
"""Folders of a pipeline of diffusers."""
IMAGE_FILES = (
    *("model_index.json", "pytorch_lora_weights.safetensors"),
    *("question.json", "preprocessor_config.json"),
    *("image_reward.json", "heads.safetensors", "conv_scorer.json", "conv_scorer.safetensors"),
)
"""Files of models of pictures, and of reward models of them, beside those of all models."""
RUN_FILES = (
    *(*BEGUN_FILES, "config.yaml", "ledger.jsonl", "validation.jsonl", "validation.partial", "seconds.json"),
    *("predictions*.jsonl", "anchors.jsonl", "anchors.partial", "checkpoints/batch-*", "checkpoints/last.*"),
    *(
        "arena/comparisons.jsonl",
        "arena/arena.*",
        "arena/judge.json",
        "samples/batch=*",
        "health/batch=*",
        *(f"{MODEL}/{name}" for name in (*MODEL_FILES, *IMAGE_FILES)),
    ),
    *(f"{MODEL}/{part}/*" for part in PIPELINE_PARTS),
    *(
        f"{verb}/{name}"
        for verb in ("validate", "test", "predict")
        for name in ("events.out.tfevents.*", "hparams.yaml", "validation.jsonl", "samples/batch=*")
    ),
)
"""Paths in a run folder that a run writes."""


class RunFolderError(ValueError):
    """Raised for a run folder with entries that prl did not write."""


def check_run_folder(folder: Path) -> None:
    """Refuse a run folder in which another entry has a name that a run writes.

    Raises:
        RunFolderError: naming the file.
    """
    tests = {
        "config.yaml": lambda path: any(
            mark in path.read_bytes() for mark in (HEAD.encode(), b"# lightning.pytorch==")
        ),
        "ledger.jsonl": lambda path: _has(_first_line(path), "session"),
        "validation.jsonl": lambda path: _has(_first_line(path), "batch"),
        DATA_REPORT: lambda path: _has(path.read_bytes(), "train"),
        MODEL: lambda path: is_own_model(path) or (folder / "config.yaml").is_file(),  # checked before
    }
    for name, is_own in tests.items():
        path = folder / name
        is_right = path.is_dir() if name == MODEL else path.is_file()
        if os.path.lexists(path) and not (is_right and is_own(path)):
            raise RunFolderError(
                f"{path} is there and prl did not write it, so a run in {folder} would overwrite it; choose another "
                "--run_dir, or move it away"
            )


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint or the model of a run."""
    return holds_checkpoints(folder / "checkpoints") or (folder / MODEL).is_dir()


def is_own_model(folder: Path) -> bool:
    """Return whether prl may replace a model folder: it is empty, or has prl's card or a judge's settings."""
    card = folder / CARD
    if (folder / JUDGE_FILE).is_file() or not any(folder.iterdir()):
        return True
    return card.is_file() and b"prl renews this card" in card.read_bytes()


def foreign_files(folder: Path, patterns: tuple[str, ...] = RUN_FILES) -> list[Path]:
    """List the files below a folder that no run writes."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [path for path in found if not _matches(path.relative_to(folder).as_posix(), patterns)]


def is_kept(path: Path) -> bool:
    """Return whether an entry stays when a model folder is replaced: a foreign file, or an edited card."""
    is_model = _matches(path.name, (*MODEL_FILES, *IMAGE_FILES, *PIPELINE_PARTS))
    return not is_model or (path.name == CARD and was_edited(path))


def clear_model(folder: Path) -> None:
    """Delete the model of a run that starts from the beginning; foreign files stay."""
    model = folder / MODEL
    if not model.is_dir():
        return
    for path in sorted(model.iterdir()):
        if is_kept(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(model.iterdir()):
        model.rmdir()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _has(text: bytes, name: str) -> bool:
    """Return whether a text is a JSON object with a field; a killed run leaves an empty or incomplete text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip() == b"" or text.startswith(b'{"' + name.encode())
    return isinstance(found, dict) and name in found
