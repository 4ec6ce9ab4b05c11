"""Passport of a judge: measurements and their inputs, in a file beside the weights (docs/judge.md)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prl import __version__
from prl.config import ModelSource, Reasoning
from prl.data import LoadedRecords, PreferencePair
from prl.data.tokens import tokenizer_hash
from prl.evaluation.judge.report import JudgedPairs
from prl.judge.base import PairwiseJudge
from prl.judge.examination import better_first, examine
from prl.judge.files import saved_template
from prl.judge.lineage import weights_hash
from prl.judge.training_record import in_short, read_training, unseen_families
from prl.models.loading import load_tokenizer
from prl.models.model_card import renew_figures
from prl.rewards.folder import PASSPORT_FILE, read_judge_file
from prl.rewards.folder_checks import FORMAT, passport_fault
from prl.system.json_files import read_object
from prl.system.outputs import write_text

DTYPE = "float32"
"""Type of the measurement in a passport without the field."""


def issue_passport(
    judge: PairwiseJudge,
    folder: str | Path,
    pairs: LoadedRecords[PreferencePair],
    judged: JudgedPairs | None = None,
    *,
    probes: bool = True,
) -> dict[str, Any]:
    """Examine the judge of a folder with pairs; see `examine` for `judged` and `probes`.

    The passport holds no date and no path: equal inputs give equal bytes.
    """
    training = read_training(folder)
    unseen = unseen_families(training)
    return {
        "format": FORMAT,
        "prl": __version__,
        "judge": description_of(judge, folder),
        "data": {
            "file": Path(pairs.report.source).name,
            "file_sha256": pairs.report.sha256,
            "pairs_sha256": pairs_hash(pairs.records),
            "num_pairs": len(pairs.records),
        },
        "training": in_short(training),
        "report": rounded(examine(judge, pairs.records, judged, probes=probes, unseen=unseen)),
    }


def description_of(judge: PairwiseJudge, folder: str | Path) -> dict[str, Any]:
    """Describe all that decides a margin of a judge, which stands in the folder, for reports."""
    return judge.describe() or {**describe_judge(folder, judge.dtype or DTYPE), **judge.described_otherwise()}


def write_passport(folder: str | Path, passport: dict[str, Any]) -> Path:
    """Write the passport beside the judge's weights, and its figures into the model card.

    Agreement with people (`prl judge --labels`) stays, where an earlier passport in the folder has it of this judge.
    """
    path = Path(folder) / PASSPORT_FILE
    passport = _with_agreement(folder, passport)
    write_text(path, as_json(passport))
    renew_figures(folder, passport)
    return path


def _with_agreement(folder: str | Path, passport: dict[str, Any]) -> dict[str, Any]:
    """Add the agreement with people of the passport that is to be replaced, unless there is a newer one."""
    try:
        old = read_passport(folder)
    except ValueError:
        return passport
    if old is None or "agreement" not in old["report"] or described(old) != described(passport):
        return passport
    kept = {name: old[name] for name in ("labels",) if name in old}
    return {**kept, **passport, "report": {"agreement": old["report"]["agreement"], **passport["report"]}}


def adopt_passport(folder: str | Path, passport: dict[str, Any] | None) -> None:
    """Copy the passport of another folder if both folders hold equal judges; otherwise do nothing."""
    if passport is not None and described(passport) == describe_judge(folder, described(passport)["dtype"]):
        write_passport(folder, passport)


def read_passport(folder: str | Path) -> dict[str, Any] | None:
    """Read the passport of a judge's folder; None where there is none.

    Raises:
        ValueError: when the file is no passport, or of an unknown version.
    """
    path = Path(folder) / PASSPORT_FILE
    if not path.is_file():
        return None
    try:
        passport = read_object(path)
        wrong = passport_fault(passport)
    except ValueError as error:
        wrong = str(error)
    if wrong is not None:
        raise ValueError(
            f"{path} is not a passport of format {FORMAT}; write it again with `prl judge --write-passport` ({wrong})"
        )
    return passport


def described(passport: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the judge in a passport, in the form of `describe_judge`."""
    return {"dtype": DTYPE, **passport["judge"]}


def as_json(value: dict[str, Any]) -> str:
    """Format a report file. Raises ValueError for NaN, which JSON does not have."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def describe_judge(folder: str | Path, dtype: str = DTYPE) -> dict[str, Any]:
    """Describe everything in the folder that decides a margin, and the type of the computation."""
    settings = read_judge_file(folder)
    template = saved_template(settings, folder).fingerprint if settings["kind"] == "generative" else None
    offset = settings.get("position_offset", 0.0)
    tokenizer = load_tokenizer(ModelSource(path=str(folder)))
    return {
        "kind": settings["kind"],
        "max_length": settings.get("max_length"),
        "temperature": settings.get("temperature", 1.0),
        "template_fingerprint": template,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "weights_sha256": weights_hash(folder),
        "dtype": dtype,
        **({"position_offset": offset} if offset else {}),
        **({"preference": settings["preference"]} if "preference" in settings else {}),
        **({"reasoning": asdict(Reasoning(**settings["reasoning"]))} if "reasoning" in settings else {}),
    }


def pairs_hash(pairs: Sequence[PreferencePair]) -> str:
    """Hash the pairs in canonical form, whatever their column names, format and order of responses."""
    digest = hashlib.sha256()
    for pair in map(better_first, pairs):
        prompt = [[message["role"], message["content"]] for message in pair.prompt]
        digest.update(json.dumps([prompt, pair.chosen, pair.rejected, pair.preference]).encode() + b"\n")
    return digest.hexdigest()


def rounded(value: Any) -> Any:
    """Round the floats of a nested value to six decimals, for readability."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value
