"""The files beside a judge's weights, as the gate reads them: settings, passport, and record of its training."""

import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from prl.config import JudgeGate, ModelSource
from prl.judge import passport as passports
from prl.judge.attacks import AttackRows
from prl.judge.examination import examine
from prl.judge.files import saved_template
from prl.judge.gate import folder_problems
from prl.judge.passport import describe_judge
from prl.judge.run_gate import RunFacts, run_problems
from prl.judge.training_record import in_short, training_record
from prl.models.model_card import _figures
from prl.rewards.folder import JUDGE_FILE, PASSPORT_FILE, TRAINING_FILE, read_judge_file
from tests.fuzz import mutated, mutated_value
from tests.helpers.pairs import QualityJudge, labelled_pairs
from tests.unit.judge.test_passport import write_generative


@cache
def judge() -> Path:
    """Make a folder whose weights and tokenizer do not change."""
    return write_generative(Path(tempfile.mkdtemp(prefix="prl-fuzz-judge-")))


@cache
def values() -> dict[str, Any]:
    data = {"file": "pairs.jsonl", "file_sha256": "0", "pairs_sha256": "0", "num_pairs": 60}
    report = examine(QualityJudge(), labelled_pairs(60))
    passport = {"format": 1, "judge": describe_judge(judge()), "data": data, "report": report}
    prompts = np.array([b"a" * 32, b"b" * 32], "S32")
    record = training_record(AttackRows(), ModelSource(path=str(judge())), prompts)
    settings = json.loads((judge() / JUDGE_FILE).read_text())
    return {JUDGE_FILE: settings, PASSPORT_FILE: {**passport, "training": in_short(record)}, TRAINING_FILE: record}


@cache
def inputs() -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in values().items()}


def changed(draw: random.Random, good: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw.choice(sorted(good))
    if draw.random() < 0.3:
        return name, mutated(draw, good[name], good[draw.choice(sorted(good))])
    return name, json.dumps(mutated_value(draw, values()[name])).encode(errors="replace")


def read(path: Path) -> None:
    if path.name == JUDGE_FILE:
        settings = read_judge_file(path.parent)
        if settings["kind"] == "generative":
            saved_template(settings, path.parent)
        return
    shutil.copy(judge() / JUDGE_FILE, path.parent)
    if path.name == TRAINING_FILE:
        run = RunFacts(ModelSource(path=str(judge())), np.array([b"a" * 32], "S32"))
        run_problems(str(path.parent), JudgeGate(same_base=True, max_prompt_overlap=0.5), run)
        return
    with patch("prl.judge.gate.describe_judge", lambda *_: values()[PASSPORT_FILE]["judge"]):
        folder_problems(str(path.parent), JudgeGate(mode="refuse"))
    if (passport := passports.read_passport(path.parent)) is not None:
        _figures(passport)
