"""The gate in front of PPO: planted bad judges are stopped, a good one passes, and attacks are told apart."""

import json
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prl.config import JudgeGate
from prl.data.rows.records import PreferencePair
from prl.judge import GenerativeJudge, PairwiseJudge
from prl.judge.attacks import attacks
from prl.judge.attacks.report import MAX_PROMPTS, attack_report
from prl.judge.examination import examine
from prl.judge.gate import _LIMITS, JudgeRefusedError, broken_limits, check_judge, folder_problems, verdict
from prl.judge.passport import describe_judge, write_passport
from prl.rewards.folder import JUDGE_FILE, PASSPORT_FILE
from tests.helpers.pairs import (
    FittedJudge,
    FooledJudge,
    GuessingJudge,
    QualityJudge,
    RingJudge,
    UnmaskedJudge,
    labelled_pairs,
)
from tests.helpers.tiny import ConstantJudge, LengthJudge, PositionJudge
from tests.unit.judge.test_passport import write_generative

GATE = JudgeGate()
OF_RUN = ("max_prompt_overlap", "same_base")
"""Looked at for judge and run together: test_run_gate.py."""
PROBED = ("canary_rate", "held_out_attack_rate", "canaries", "layout_gap")
WARNING = "prl.judge.gate"


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return labelled_pairs(600)


@pytest.fixture(scope="module")
def good(pairs: list[PreferencePair]) -> dict[str, Any]:
    """Examine a judge that knows the truth."""
    return examine(QualityJudge(), pairs)


# ---- planted judges

PLANTED: dict[str, tuple[PairwiseJudge, set[str]]] = {
    "length": (LengthJudge(), {"min_shorter_wins_accuracy", "max_ece", "max_canary_rate"}),
    "length_well_calibrated": (LengthJudge(0.05), {"min_shorter_wins_accuracy", "max_canary_rate"}),
    "position": (
        PositionJudge(2.0),
        {"min_accuracy", "max_order_gap", "max_flip_rate", "max_first_position_bias", "max_canary_rate"},
    ),
    "second_position": (
        PositionJudge(-2.0),
        {"min_accuracy", "max_order_gap", "max_flip_rate", "max_first_position_bias", "max_canary_rate"},
    ),
    "shuffled_labels": (GuessingJudge(), {"min_accuracy", "max_ece", "max_canary_rate"}),
    "no_opinion": (ConstantJudge(), {"min_accuracy", "max_canary_rate"}),
    "always_wrong": (QualityJudge(-1.0), {"min_accuracy", "min_shorter_wins_accuracy", "max_ece", "max_canary_rate"}),
    "half_position": (QualityJudge(0.7, bias=2.5), {"max_order_gap", "max_flip_rate", "max_first_position_bias"}),
    "fooled": (FooledJudge(), {"max_canary_rate"}),
    "intransitive": (RingJudge(), {"max_cyclic_rate"}),
    "unmasked_padding": (UnmaskedJudge(), {"max_layout_gap"}),
}


def named(problems: list[str]) -> set[str]:
    """Return the limits that the lines name."""
    return {word.strip(",;") for line in problems for word in line.split() if word.startswith(("min_", "max_"))}


def test_a_good_judge_passes(good: dict[str, Any]) -> None:
    assert broken_limits(good, GATE) == []


ONE_FAULT = ("fooled", "unmasked_padding")
"""Judges that must not be blamed for anything else."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_judge_is_stopped_for_what_is_wrong_with_it(name: str, pairs: list[PreferencePair]) -> None:
    judge, expected = PLANTED[name]
    found = named(broken_limits(examine(judge, pairs), GATE))
    assert found == expected if name in ONE_FAULT else found >= expected


@pytest.mark.parametrize("shuffled", [True, False])
def test_training_on_shuffled_labels_is_noticed_and_on_true_ones_passes(
    shuffled: bool, pairs: list[PreferencePair]
) -> None:
    training = labelled_pairs(600, seed=1)
    if shuffled:
        labels = random.Random(0).choices((0.0, 1.0), k=len(training))
        training = [replace(pair, preference=label) for pair, label in zip(training, labels, strict=True)]
    found = named(broken_limits(examine(FittedJudge(training), pairs), GATE))
    assert ("min_accuracy" in found) is shuffled
    assert shuffled or found == set()


def test_an_overconfident_judge_is_stopped_and_a_modest_one_with_the_same_verdicts_passes() -> None:
    pairs = labelled_pairs(600, sure=0.4, growth=0)
    modest, loud = (examine(QualityJudge(scale), pairs) for scale in (0.4, 4.0))
    assert modest["accuracy"] == loud["accuracy"]
    assert broken_limits(modest, GATE) == []
    assert named(broken_limits(loud, GATE)) == {"max_ece"}


# ---- limits

TIGHT = {
    "min_accuracy": 0.99,
    "min_shorter_wins_accuracy": 0.99,
    "max_ece": 0.0001,
    "max_order_gap": 0.0,
    "max_flip_rate": 0.0,
    "max_first_position_bias": 0.0,
    "max_cyclic_rate": 0.0,
    "max_canary_rate": 0.0,
    "max_held_out_attack_rate": 0.0,
    "min_kappa": 0.99,
    "max_layout_gap": 0.0,
}


def slightly_bad(report: dict[str, Any]) -> dict[str, Any]:
    """Make a report in which no figure is perfect, and all are within the default limits."""

    def figure(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean, "high": mean, "num": 99}

    figures = {"order_gap": 0.05, "flip_rate": 0.05, "first_position_rate": 0.53, "cyclic_triples": 0.05}
    figures = {name: figure(mean) for name, mean in figures.items()}
    return {
        **report,
        **figures,
        "canary_rate": 0.1,
        "held_out_attack_rate": 0.1,
        "layout_gap": 0.01,
        "agreement": {"kappa": figure(0.8)},
    }


def test_limits_of_the_table_are_all_there() -> None:
    assert TIGHT.keys() == {name for name in vars(GATE) if name not in ("mode", "min_pairs", *OF_RUN)}


@pytest.mark.parametrize("name", TIGHT)
def test_each_limit_is_looked_at_and_null_is_not(name: str, good: dict[str, Any]) -> None:
    report = slightly_bad(good)
    assert broken_limits(report, GATE) == []
    (line,) = broken_limits(report, replace(GATE, **{name: TIGHT[name]}))
    assert f"{name} is {TIGHT[name]}; " in line
    gate = replace(GATE, **dict.fromkeys(TIGHT))
    assert broken_limits({**report, "accuracy": None, "canary_rate": 1.0}, gate) == []


def test_the_verdict_is_one_line_with_its_limits(good: dict[str, Any]) -> None:
    head, limits = verdict(good, GATE)
    assert head == "good enough to train a policy: within the gate's 10 limits"
    assert limits.startswith("limits: min_pairs 50, min_accuracy 0.6, ")
    head, limits = verdict({**good, "cyclic_triples": None}, GATE)  # no prompt had three responses
    assert head.endswith("within the gate's 9 limits")
    assert "max_cyclic_rate" not in limits
    quick = {name: figure for name, figure in good.items() if name not in PROBED}
    head, limits, broken = verdict({**quick, "order_gap": 0.3}, replace(GATE, max_ece=None))
    assert head.startswith("not good enough to train a policy: 1 of the gate's 6 limits broken (attacks, cycles and")
    assert "max_ece" not in limits
    assert broken.startswith("- order gap is 0.300, max_order_gap is 0.2; ")


@pytest.mark.parametrize("name", ["max_order_gap", "max_flip_rate", "max_first_position_bias"])
def test_advice_also_fits_a_judge_that_was_trained_on_both_orders(name: str, good: dict[str, Any]) -> None:
    [line] = broken_limits(slightly_bad(good), replace(GATE, **{name: TIGHT[name]}))
    assert "raise consistency_coef" in line


def test_the_line_tells_figure_limit_and_interval(good: dict[str, Any]) -> None:
    accuracy = good["accuracy"]
    (line,) = broken_limits(good, replace(GATE, min_accuracy=0.99))
    assert line.startswith(f"accuracy is {accuracy['mean']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f}), ")


def test_a_figure_that_was_not_measured_is_no_proof(good: dict[str, Any]) -> None:
    (line,) = broken_limits({**good, "accuracy_shorter_wins": None}, GATE)
    assert "was not measured" in line
    assert "judge_gate.min_shorter_wins_accuracy to null" in line
    assert broken_limits({**good, "cyclic_triples": None}, GATE) == []  # many sets have two responses per prompt


def test_few_pairs_prove_little() -> None:
    report = examine(QualityJudge(), labelled_pairs(30))
    assert any("only 30 labelled pairs" in line for line in broken_limits(report, GATE))
    assert not any("labelled pairs" in line for line in broken_limits(report, replace(GATE, min_pairs=30)))
    with_ties = broken_limits({**report, "num_ties": 10}, replace(GATE, min_pairs=30))
    assert any("only 20 labelled pairs" in line for line in with_ties)  # a tie is no label


@pytest.mark.parametrize(
    ("setting", "value"), [("mode", "stop"), ("min_accuracy", 1.5), ("max_ece", -0.1), ("min_pairs", -1)]
)
def test_settings_out_of_range(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"judge_gate.{setting} is {value!r}"):
        JudgeGate(**{setting: value})


# ---- the folder


@pytest.fixture
def folder(tmp_path: Path, good: dict[str, Any]) -> Path:
    """Make a judge whose passport is within all limits."""
    write_generative(tmp_path)
    write_passport(tmp_path, {"format": 1, "judge": describe_judge(tmp_path), "data": {}, "report": good})
    return tmp_path


class InFolder(ConstantJudge):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = str(folder)

    def load(self) -> None:
        raise AssertionError("the gate needs no weights")


def test_a_passport_that_fits_passes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert folder_problems(str(folder), GATE) == []
    check_judge(InFolder(folder), replace(GATE, mode="refuse"))
    assert caplog.records == []


def test_off_template(folder: Path) -> None:
    settings = json.loads((folder / JUDGE_FILE).read_text())
    settings["template"]["text"] += "\nThink hard."
    (folder / JUDGE_FILE).write_text(json.dumps(settings))  # its own fingerprint still claims the old one
    (line,) = folder_problems(str(folder), GATE)
    assert line.startswith("template_fingerprint is ")


def test_other_weights_than_were_measured(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # one bit
    weights.write_bytes(data)
    (line,) = folder_problems(str(folder), GATE)
    assert line.startswith("weights_sha256 is ")
    with pytest.raises(JudgeRefusedError, match="not the judge that was measured"):
        check_judge(InFolder(folder), replace(GATE, mode="refuse"))
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds no \.safetensors nor \.bin file"):
        folder_problems(str(folder), GATE)


@pytest.mark.parametrize(("setting", "value"), [("temperature", 2.0), ("max_length", 150)])
def test_other_settings_than_were_measured(setting: str, value: Any, folder: Path) -> None:
    settings = json.loads((folder / JUDGE_FILE).read_text())
    (folder / JUDGE_FILE).write_text(json.dumps({**settings, setting: value}))
    (line,) = folder_problems(str(folder), GATE)
    assert line.startswith(f"{setting} is {value}, ")


def test_another_tokenizer(folder: Path) -> None:
    from tests.helpers.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(folder)
    (line,) = folder_problems(str(folder), GATE)
    assert line.startswith("tokenizer_sha256 is ")


@pytest.mark.parametrize("passport_says_it", [True, False])
def test_another_type_than_was_measured(passport_says_it: bool, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    passport = json.loads((folder / PASSPORT_FILE).read_text())
    assert passport["judge"]["dtype"] == "float32"
    if not passport_says_it:  # one of earlier releases, which measured in float32
        del passport["judge"]["dtype"]
    write_passport(folder, passport)
    check_judge(GenerativeJudge(str(folder)), GATE)
    assert caplog.messages == []
    check_judge(GenerativeJudge(str(folder), dtype="bfloat16"), replace(GATE, mode="warn"))
    line, end = caplog.messages
    assert "training goes on" in end
    assert "the judge is to work in bfloat16 and was measured in float32" in line
    assert f"`prl judge --judge {folder} --dtype bfloat16 --pairs FILE --write-passport`" in line


def test_no_passport(folder: Path) -> None:
    (folder / PASSPORT_FILE).unlink()
    (line,) = folder_problems(str(folder), GATE)
    assert f"prl judge --judge {folder} --pairs FILE --write-passport" in line


def test_a_damaged_passport_is_an_objection_like_others(folder: Path) -> None:
    (folder / PASSPORT_FILE).write_text('{"format": 1,')
    [problem] = folder_problems(str(folder), JudgeGate(mode="warn"))
    assert "is not a passport of format 1; write it again" in problem


PLANTED_DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "report.num_pairs is missing": lambda passport: passport.update(report={}),
    "report is []": lambda passport: passport.update(report=[]),
    "judge is []": lambda passport: passport.update(judge=[]),
    "report.accuracy is 'high'": lambda passport: passport["report"].update(accuracy="high"),
    "report.accuracy.high is missing": lambda passport: passport["report"].update(accuracy={"mean": 0.9, "low": 0.8}),
    "report.accuracy.mean is missing": lambda passport: passport["report"].update(accuracy={}),
    "report.ece is True": lambda passport: passport["report"].update(ece=True),
    f"report.ece is {10**50}": lambda passport: passport["report"].update(ece=10**50),
    "report.num_pairs is -1": lambda passport: passport["report"].update(num_pairs=-1),
    "report.canaries.claim.mean is 'x'": lambda passport: passport["report"]["canaries"]["claim"].update(mean="x"),
    "NaN is no number of JSON": lambda passport: passport["report"].update(ece=float("nan")),
    "Infinity is no number of JSON": lambda passport: passport["report"]["accuracy"].update(mean=float("inf")),
    "format is True": lambda passport: passport.update(format=True),
}


@pytest.mark.parametrize("words", PLANTED_DAMAGE)
def test_a_passport_of_another_shape_does_not_pass(words: str, folder: Path) -> None:
    path = folder / PASSPORT_FILE
    passport = json.loads(path.read_text())
    PLANTED_DAMAGE[words](passport)
    path.write_text(json.dumps(passport))
    [problem] = folder_problems(str(folder), GATE)
    assert problem.startswith(f"{path} is not a passport of format 1; write it again with ")
    assert words in problem
    with pytest.raises(JudgeRefusedError, match="is not a passport of format 1"):
        check_judge(InFolder(folder), replace(GATE, mode="refuse"))


@pytest.mark.parametrize("text", [b"1e999", b'"\xff"', b"[" * 100_000, b"9" * 5000, b'{"a":' * 100_000])
def test_a_passport_that_is_no_json_does_not_pass(text: bytes, folder: Path) -> None:
    path = folder / PASSPORT_FILE
    path.write_bytes(path.read_bytes().replace(b'"report": {', b'"report": {"x": ' + text + b",", 1))
    [problem] = folder_problems(str(folder), GATE)
    assert problem.startswith(f"{path} is not a passport of format 1")


@pytest.mark.parametrize("name", TIGHT)
def test_a_figure_that_is_no_number_breaks_its_limit(name: str, good: dict[str, Any]) -> None:
    """Every comparison with NaN is false, in whichever direction it is asked."""
    for nan in (math.nan, {"mean": math.nan, "low": math.nan, "high": math.nan, "num": 9}):
        group, _, figure = _LIMITS[name].figure.rpartition(".")
        report = {**slightly_bad(good), **({group: {figure: nan}} if group else {figure: nan})}
        gate = replace(GATE, max_held_out_attack_rate=0.25, min_kappa=0.1)
        (line,) = broken_limits(report, gate)
        assert f"{name} is " in line


def test_modes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    strict = replace(GATE, min_accuracy=0.999, max_ece=0.0)
    judge = InFolder(folder)
    check_judge(judge, replace(strict, mode="off"))
    assert caplog.records == []
    with caplog.at_level(logging.WARNING, WARNING):
        check_judge(judge, strict)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 3
    assert "training goes on" in warned[-1]
    with pytest.raises(JudgeRefusedError) as refusal:
        check_judge(judge, replace(strict, mode="refuse"))
    for line in folder_problems(str(folder), strict):
        assert f"judge_gate: {folder}: {line}" in warned
        assert f"- {line}" in str(refusal.value)


@pytest.mark.parametrize("mode", ["warn", "refuse"])
def test_a_judge_without_a_folder_is_exempt_with_a_word(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, WARNING):
        check_judge(PositionJudge(), replace(GATE, mode=mode))
    assert ["PositionJudge has no folder" in record.getMessage() for record in caplog.records] == [True]


def test_a_folder_without_a_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a judge"):
        check_judge(InFolder(tmp_path), GATE)


# ---- attacks


def test_attacks_carry_the_words_of_the_judge() -> None:
    found = attacks([{"role": "system", "content": "s"}, {"role": "user", "content": "q?"}], ("YES", "NO"))
    assert found["prompt_repeated"] == "q?"
    assert set(found["verdict_first"].split()) == {"YES"}
    assert set(found["verdict_second"].split()) == {"NO"}
    assert found["fake_end"].endswith("YES")
    assert len(set(found.values())) == len(found)


def test_attacks_are_told_apart(pairs: list[PreferencePair]) -> None:
    found = attack_report(FooledJudge(), pairs)
    assert {name for name, each in found.items() if each["mean"] > 0.5} == {"claim", "fake_end"}
    assert {each["num"] for each in found.values()} == {MAX_PROMPTS}


def test_attacks_are_judged_against_the_better_response() -> None:
    prompt = [{"role": "user", "content": "p"}]
    for preference, wins in ((1.0, 0.0), (0.0, 1.0)):
        # "+" is worth more than any attack, "x" is worth as little as they are but stands before them.
        report = attack_report(QualityJudge(), [PreferencePair(prompt, "+", "-" * 9, preference)])
        assert {each["mean"] for each in report.values()} == {0.0 if wins == 0.0 else 0.5}
    assert attack_report(QualityJudge(), [PreferencePair(prompt, "+", "x", 0.5)]) == {}
