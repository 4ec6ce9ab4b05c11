"""What the gate asks of a judge for one run: its base model, and the prompts of its training."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prl.config import JudgeGate, ModelSource
from prl.data.rows.records import prompt_key
from prl.judge import prompt_sketch
from prl.judge.gate import broken_limits
from prl.judge.lineage import base_of_source, is_same_base, weights_hash
from prl.judge.prompt_sketch import PromptSketch
from prl.judge.run_gate import RunFacts, prompt_overlap, run_problems
from prl.judge.training_record import in_short, read_training, training_record, write_training
from prl.rewards.folder import TRAINING_FILE
from prl.rewards.folder_checks import passport_fault
from tests.helpers.tiny import write_tiny_model


def keys(*texts: str) -> np.ndarray:
    """Make the keys of prompts as the store of encoded rows has them."""
    return np.array([bytes.fromhex(prompt_key([{"role": "user", "content": text}])) for text in texts], "S32")


def prompts(first: int, last: int) -> np.ndarray:
    return keys(*(f"prompt {number}" for number in range(first, last)))


# ---- prompts


def test_the_share_of_prompts_is_exact_for_few_and_counts_each_once() -> None:
    sketch = PromptSketch.of(np.concatenate([prompts(0, 10), prompts(0, 10)]))
    assert sketch.num == 10
    assert sketch.share_of(prompts(8, 12)) == 0.5
    assert sketch.share_of(np.concatenate([prompts(8, 12), prompts(8, 9)])) == 0.5
    assert (sketch.share_of(prompts(0, 3)), sketch.share_of(prompts(20, 30))) == (1.0, 0.0)
    assert sketch.share_of(prompts(0, 0)) is None


def test_a_hash_is_the_beginning_of_the_sha256_also_where_numpy_strips_zeros() -> None:
    zeros = np.array([b"\x01" + b"\0" * 31, b"\0" * 32], "S32")
    assert PromptSketch.of(zeros).hashes.tolist() == [0, 1 << 56]
    first = hashlib.sha256(json.dumps([["user", "q"]]).encode()).digest()[:8]
    assert PromptSketch.of(keys("q")).hashes.tolist() == [int.from_bytes(first, "big")]


def test_a_sample_estimates_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_sketch, "KEPT", 200)
    sketch = PromptSketch.of(prompts(0, 2000))
    assert (sketch.num, len(sketch.hashes)) == (2000, 200)
    share = sketch.share_of(prompts(1000, 3000))  # one half of them; about 200 lie in the sample's range
    assert share is not None
    assert abs(share - 0.5) < 4 * 0.5 / 200**0.5  # four standard deviations
    assert sketch.share_of(prompts(0, 2000)) == 1.0


def test_a_sketch_is_read_as_it_was_written_and_damage_is_named() -> None:
    sketch = PromptSketch.of(prompts(0, 50))
    found = json.loads(json.dumps(sketch.as_json()))
    again = PromptSketch.from_json(found)
    assert (again.num, again.hashes.tolist()) == (sketch.num, sketch.hashes.tolist())
    for wrong in ({"num": 49}, {"hashes": found["hashes"][:-12]}, {"hashes": "%"}):
        with pytest.raises(ValueError, match=r"hashes|base64|padding|buffer"):
            PromptSketch.from_json(found | wrong)


# ---- bases


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [write_tiny_model(root / f"{seed}", seed) for seed in range(2)]


def test_the_base_of_a_model_is_known_by_its_weights_or_its_name(models: list[Path], tmp_path: Path) -> None:
    one, other = (base_of_source(ModelSource(path=str(path))) for path in models)
    assert one == {"name": None, "weights_sha256": weights_hash(models[0])}
    assert is_same_base(one, one) is True
    assert is_same_base(one, other) is None  # both may come from a third
    named = {"name": "org/model", "weights_sha256": None}
    assert base_of_source(ModelSource(path="org/model")) == named
    assert is_same_base(named, {**one, "name": "org/model"}) is True
    assert is_same_base(named, {**other, "name": "org/another"}) is False
    assert is_same_base(named, one) is None
    nothing = base_of_source(ModelSource(config={"model_type": "llama"}, tokenizer="x"))
    assert nothing == {"name": None, "weights_sha256": None}
    assert is_same_base(nothing, nothing) is None


def test_the_base_of_adapters_is_below_them(models: list[Path], tmp_path: Path) -> None:
    settings = {"base_model_name_or_path": str(models[0]), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert base_of_source(ModelSource(path=str(tmp_path))) == base_of_source(ModelSource(path=str(models[0])))


# ---- the gate


@pytest.fixture
def folder(models: list[Path], tmp_path: Path) -> str:
    """Make a folder with the record of a judge that was trained from the first model on ten prompts."""
    write_training(tmp_path, training_record(None, ModelSource(path=str(models[0])), prompts(0, 10)))
    return str(tmp_path)


def test_overlap_is_looked_at_when_asked(folder: str) -> None:
    run = RunFacts(prompts=prompts(6, 16))
    assert run_problems(folder, JudgeGate(), run) == []
    assert run_problems(folder, JudgeGate(max_prompt_overlap=0.4), run) == []
    (line,) = run_problems(folder, JudgeGate(max_prompt_overlap=0.3), run)
    assert "judge's training is 0.400, max_prompt_overlap is 0.3; take other prompts" in line
    assert prompt_overlap(read_training(folder), run.prompts) == 0.4
    (line,) = run_problems(folder, JudgeGate(max_prompt_overlap=0.4), RunFacts())
    assert "is not known; train the judge with prl, or set judge_gate.max_prompt_overlap to null" in line


def test_bases_are_compared_when_asked(folder: str, models: list[Path]) -> None:
    same, unknown = RunFacts(ModelSource(path=str(models[0]))), RunFacts(ModelSource(path=str(models[1])))
    assert run_problems(folder, JudgeGate(same_base=True), same) == []
    (line,) = run_problems(folder, JudgeGate(same_base=False), same)
    assert line.startswith("judge and policy come from one base model, same_base is False; ")
    (line,) = run_problems(folder, JudgeGate(same_base=True), unknown)
    assert line.startswith("whether judge and policy come from one base model is not known; ")
    record = read_training(folder)
    assert record is not None
    write_training(folder, {**record, "base": {"name": "org/model", "weights_sha256": None}})
    other = RunFacts(ModelSource(path="org/another"))
    assert run_problems(folder, JudgeGate(same_base=False), other) == []
    (line,) = run_problems(folder, JudgeGate(same_base=True), other)
    assert line.startswith("judge and policy come from different base models, same_base is True; ")


def test_a_judge_without_a_record_breaks_what_needs_one(tmp_path: Path, models: list[Path]) -> None:
    run = RunFacts(ModelSource(path=str(models[0])), prompts(0, 3))
    assert run_problems(str(tmp_path), JudgeGate(), run) == []
    lines = run_problems(str(tmp_path), JudgeGate(same_base=True, max_prompt_overlap=1.0), run)
    assert len(lines) == 2
    assert all(f"there is no {TRAINING_FILE}, which prl writes beside a judge that it trains" in line for line in lines)


DAMAGE: dict[str, Any] = {
    "attacks is missing": {"attacks": None},
    "attacks.held_out is 3": {"attacks": {"trained": [], "held_out": 3}},
    "base is 'x'": {"base": "x"},
    "base.name is 3": {"base": {"name": 3, "weights_sha256": None}},
    "base.weights_sha256 is missing": {"base": {"name": None}},
    "prompts is []": {"prompts": []},
    "prompts is {'num': -1}": {"prompts": {"num": -1}},
    "'hashes'": {"prompts": {"num": 3}},
}


@pytest.mark.parametrize("told", DAMAGE)
def test_a_damaged_record_is_named(told: str, folder: str) -> None:
    record = read_training(folder)
    assert record is not None
    Path(folder, TRAINING_FILE).write_text(json.dumps({**record, **DAMAGE[told]}))
    (line,) = run_problems(folder, JudgeGate(max_prompt_overlap=1.0), RunFacts(prompts=prompts(0, 3)))
    assert f"{TRAINING_FILE} is damaged ({told}" in line


def test_a_passport_has_the_record_without_its_hashes(folder: str) -> None:
    short = in_short(read_training(folder))
    assert short is not None
    assert short["prompts"] == {"num": 10}
    assert in_short(None) is None
    passport = {"format": 1, "judge": {}, "data": {}, "report": {"num_pairs": 3}}
    assert passport_fault(passport) is None  # of an earlier version
    assert passport_fault({**passport, "training": short}) is None
    assert passport_fault({**passport, "training": None}) is None
    assert passport_fault({**passport, "training": {"attacks": short["attacks"]}}) == "training: base is not there"
    assert passport_fault({**passport, "training": 3}) == "training: it is 3; expected an object"
    assert (
        passport_fault({**passport, "training": {**short, "attacks": 3}})
        == "training: attacks is 3; expected an object"
    )


def test_agreement_with_people_is_looked_at_when_asked() -> None:
    report: dict[str, Any] = {"num_pairs": 99, "agreement": {"kappa": {"mean": 0.3, "low": 0.2, "high": 0.4, "num": 9}}}
    nothing = {name: None for name in vars(JudgeGate()) if name.startswith(("min_", "max_")) and name != "min_pairs"}
    assert broken_limits(report, JudgeGate(**nothing)) == []
    (line,) = broken_limits(report, JudgeGate(**{**nothing, "min_kappa": 0.5}))
    assert line.startswith("Cohen's kappa with people is 0.300 (0.200 to 0.400), min_kappa is 0.5; ")
    assert broken_limits(report, JudgeGate(**{**nothing, "min_kappa": 0.3})) == []
    for without in ({"num_pairs": 99}, {"num_pairs": 99, "agreement": {}}, {"num_pairs": 99, "agreement": None}):
        (line,) = broken_limits(without, JudgeGate(**{**nothing, "min_kappa": 0.5}))
        assert "was not measured: the passport holds no labels of people; measure with `prl judge --labels" in line


def test_a_run_tells_the_gate_its_policy_and_its_prompts() -> None:
    from lightning_modules.ppo_checks import run_facts

    policy, found = ModelSource(path="org/model"), prompts(0, 3)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_prompts=found))
    assert run_facts(policy, trainer) == RunFacts(policy, found)
    assert run_facts(policy, None) == RunFacts(policy, None)
