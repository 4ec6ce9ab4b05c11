"""Agreement of a judge with people, kept in its passport."""

from pathlib import Path
from typing import Any

from prl.judge.base import PairwiseJudge
from prl.judge.passport import described, description_of, read_passport, write_passport

KEPT = ("kappa", "observed", "ac1", "kappa_decided")
"""Figures of the judge and the majority that the passport keeps, by their names in the report."""


def check_agreement_passport(folder: str | Path, judge: PairwiseJudge) -> None:
    """Refuse a folder without a passport of this judge, before anything is judged.

    Raises:
        ValueError: naming the folder and the command that writes the passport.
    """
    command = f"`prl judge --judge {folder} --pairs FILE --write-passport`"
    passport = read_passport(folder)
    if passport is None:
        raise ValueError(f"{folder} has no passport that could keep the agreement; write it first with {command}")
    now, then = description_of(judge, folder), described(passport)
    if odd := [name for name in dict.fromkeys((*now, *then)) if now.get(name) != then.get(name)]:
        raise ValueError(
            f"the passport in {folder} is of another judge ({', '.join(odd)}); write it again first with {command}"
        )


def keep_agreement(folder: str | Path, report: dict[str, Any], data: dict[str, Any]) -> Path:
    """Put the agreement into the passport of the folder.

    Args:
        folder: folder of the judge, with a passport.
        report: result of `people_report`.
        data: the file of the annotations and how it was read.
    """
    passport = read_passport(folder)
    assert passport is not None, "check_agreement_passport comes first"
    people = report["people"]
    kept = {name: report[name] for name in KEPT}
    kept["people_kappa"] = None if people is None else people["others_kappa"]
    kept["judge_minus_people"] = None if people is None else people["judge_minus_people"]
    counts = {name: report[name] for name in ("num_pairs", "num_prompts", "num_annotators", "num_annotations")}
    passport["report"]["agreement"] = kept
    passport["labels"] = {**data, **counts}
    return write_passport(folder, passport)
