"""Record of a judge's training, in a file beside its weights: what no measurement can tell of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prl.config import ModelSource
from prl.judge.attacks.families import FAMILIES
from prl.judge.attacks.rows import AttackRows
from prl.judge.lineage import base_of_source
from prl.judge.prompt_sketch import PromptSketch
from prl.models.location import linked_model
from prl.rewards.folder import TRAINING_FILE, judge_folder
from prl.rewards.folder_checks import training_fault
from prl.system.json_files import read_object
from prl.system.outputs import write_text


def training_record(
    attacks: AttackRows | None = None, source: ModelSource | None = None, prompts: np.ndarray | None = None
) -> dict[str, Any]:
    """Describe a judge's training.

    Args:
        attacks: attacks among the training rows; None without any.
        source: model that the judge was trained from; None where it is not known.
        prompts: SHA-256 of the prompts of the training rows, [N] S32; None where they are not known.
    """
    families = [] if attacks is None else attacks.families
    return {
        "attacks": {
            "share": 0.0 if attacks is None else attacks.share,
            "trained": families,
            "held_out": [name for name in FAMILIES if name not in families],
        },
        "base": None if source is None else base_of_source(source),
        "prompts": None if prompts is None else PromptSketch.of(prompts).as_json(),
    }


def in_short(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave the hashes of prompts out of a record, for a passport."""
    if record is None or record["prompts"] is None:
        return record
    return {**record, "prompts": {"num": record["prompts"]["num"]}}


def in_words(record: dict[str, Any] | None) -> list[str]:
    """Describe the attacks of a judge's training in a line; none for a judge without a record."""
    if record is None:
        return []
    trained, held_out = (", ".join(record["attacks"][name]) or "none" for name in ("trained", "held_out"))
    return [f"trained on attacks: {trained}; held out: {held_out}"]


def write_training(folder: str | Path, record: dict[str, Any]) -> None:
    """Write the record beside a judge's weights."""
    write_text(Path(folder) / TRAINING_FILE, json.dumps(record, indent=2) + "\n")


def read_training(folder: str | Path) -> dict[str, Any] | None:
    """Read the record of a judge's training; None for a judge without one, as of another maker.

    That of a folder of settings alone, as calibration writes, is the record of the model that it names.

    Raises:
        ValueError: when the file is damaged.
    """
    path = Path(judge_folder(linked_model(str(folder)) or folder)) / TRAINING_FILE
    if not path.is_file():
        return None
    try:
        record = read_object(path)
        wrong = training_fault(record)
        if wrong is None and record["prompts"] is not None:
            PromptSketch.from_json(record["prompts"])
    except (ValueError, LookupError, TypeError) as error:
        wrong = str(error)
    if wrong is not None:
        raise ValueError(f"{path} is damaged ({wrong}); copy it anew from the folder of the training, or delete it")
    return record


def unseen_families(record: dict[str, Any] | None) -> Sequence[str]:
    """List the families of attacks that a judge was not trained on: all of them for one without a record."""
    trained = [] if record is None else record["attacks"]["trained"]
    return [name for name in FAMILIES if name not in trained]
