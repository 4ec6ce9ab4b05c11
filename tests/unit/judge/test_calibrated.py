"""Calibration: planted temperature and offset are found, and a folder of settings alone is the calibrated judge."""

import json
import math
from pathlib import Path

import pytest
import torch

from prl.config import JudgeGate
from prl.data import DataSource, PreferencePair, load_records
from prl.evaluation.bootstrap import Interval
from prl.evaluation.judge.report import JudgedPairs
from prl.judge import BradleyTerryJudge, GenerativeJudge, Judge, JudgeTemplate
from prl.judge.attacks import AttackRows
from prl.judge.calibrated import Calibration, fit_calibration, write_calibrated
from prl.judge.examination import judge_pairs
from prl.judge.gate import check_judge, folder_problems
from prl.judge.passport import describe_judge, issue_passport, write_passport
from prl.judge.training_record import read_training, training_record, write_training
from prl.models.location import ModelNotFoundError
from prl.rewards.folder import JUDGE_FILE
from prl.run_folder.inputs import folder_inputs
from prl.verdict import Verdict
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model, write_tiny_reward_model

PROMPTS, FIRST, SECOND = ["reverse dcab", "sort cab", "double ab"], ["abcd", "abc", "aabb"], ["bacd", "cab", "ab"]


def judged(margin_ab: torch.Tensor, margin_ba: torch.Tensor, targets: torch.Tensor) -> JudgedPairs:
    number = len(targets)
    return JudgedPairs(Verdict(margin_ab, margin_ba), targets, range(number), torch.ones(number, 2))


def test_a_planted_temperature_and_offset_lie_in_their_intervals() -> None:
    torch.manual_seed(0)
    truth = torch.randn(4000) * 2
    targets = torch.bernoulli(truth.sigmoid())
    found = fit_calibration(judged(3 * truth + 0.7, -3 * truth + 0.7 + torch.randn(4000) * 0.1, targets))
    assert found.temperature.low < 3 < found.temperature.high
    assert found.position_offset.low < 0.7 < found.position_offset.high
    calibrated = found.apply(Verdict(3 * truth + 0.7, -3 * truth + 0.7))
    assert calibrated.order_gap.mean() < 0.01
    torch.testing.assert_close(calibrated.win_logit, truth, rtol=0.2, atol=0.0)


@pytest.mark.parametrize(
    ("sign", "end"), [(1, "0.01: the judge is right on all"), (-1, "100: its margins say no more than")]
)
def test_a_temperature_at_an_end_of_its_range_is_none(sign: int, end: str, plain: Path, tmp_path: Path) -> None:
    margins = sign * torch.rand(20)
    found = fit_calibration(judged(margins, -margins, torch.ones(20)))
    with pytest.raises(ValueError, match=f"no temperature fits, the search ended at {end}"):
        write_calibrated(GenerativeJudge(str(plain)), str(plain), tmp_path / "calibrated", found)
    assert not (tmp_path / "calibrated").exists()


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "lm", 1, max_position_embeddings=2048)


def pairs_file(folder: Path) -> Path:
    rows = [
        {"prompt": prompt, "chosen": first, "rejected": second}
        for prompt, first, second in zip(PROMPTS, FIRST, SECOND, strict=True)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_folder_written_is_the_calibrated_judge_and_holds_no_weights(plain: Path, tmp_path: Path) -> None:
    judge = Judge.from_pretrained(plain)
    pairs = load_records(DataSource(str(pairs_file(tmp_path))), PreferencePair)
    before = judge_pairs(judge.model, pairs.records)
    fitted = Calibration(Interval(1.5, 1.0, 2.0), Interval(-0.7, -1.0, -0.5))
    write_calibrated(judge.model, str(plain), tmp_path / "once", fitted)
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == ["judge_template.jinja", JUDGE_FILE]
    once = Judge.from_pretrained(tmp_path / "once")
    expected = fitted.apply(before.verdict)
    found = judge_pairs(once.model, pairs.records)
    torch.testing.assert_close(found.verdict.margin_ab, expected.margin_ab)
    torch.testing.assert_close(found.verdict.margin_ba, expected.margin_ba)
    # A judge that is calibrated again keeps what the first calibration found.
    again = Calibration(Interval(2.0, 2.0, 2.0), Interval(0.3, 0.3, 0.3))
    write_calibrated(once.model, str(tmp_path / "once"), tmp_path / "twice", again)
    twice = judge_pairs(Judge.from_pretrained(tmp_path / "twice").model, pairs.records)
    torch.testing.assert_close(twice.verdict.margin_ab, again.apply(found.verdict).margin_ab)
    settings = [json.loads((tmp_path / name / JUDGE_FILE).read_text()) for name in ("once", "twice")]
    assert settings[0]["model"] == settings[1]["model"] == str(plain)
    once.save_pretrained(tmp_path / "whole")
    whole = judge_pairs(Judge.from_pretrained(tmp_path / "whole").model, pairs.records)
    assert torch.equal(whole.verdict.margin_ab, found.verdict.margin_ab)


def test_its_passport_holds_until_the_model_or_the_calibration_changes(plain: Path, tmp_path: Path, caplog) -> None:
    judge, folder = Judge.from_pretrained(plain), tmp_path / "calibrated"
    pairs = load_records(DataSource(str(pairs_file(tmp_path))), PreferencePair)
    fitted = Calibration(Interval(1.5, 1.0, 2.0), Interval(-0.7, -1.0, -0.5))
    trained = training_record(AttackRows(held_out=["claims"]))
    write_training(plain, trained)
    write_calibrated(judge.model, str(plain), folder, fitted)
    calibrated = Judge.from_pretrained(folder)
    passport = issue_passport(calibrated.model, folder, pairs, probes=False)
    assert passport["training"] == read_training(folder) == trained  # of the model that it names
    write_passport(folder, passport)
    unlimited = JudgeGate(
        min_pairs=0, **{name: None for name in vars(JudgeGate()) if name.startswith(("min_a", "min_s", "max_"))}
    )
    assert folder_problems(str(folder), unlimited) == []
    settings = json.loads((folder / JUDGE_FILE).read_text())
    (folder / JUDGE_FILE).write_text(
        json.dumps({name: settings[name] for name in settings if name != "position_offset"})
    )
    assert ["position_offset is missing" in problem for problem in folder_problems(str(folder), unlimited)] == [True]
    (folder / JUDGE_FILE).write_text(json.dumps(settings))
    tiny_model(9, max_position_embeddings=2048).save_pretrained(plain)
    assert ["weights_sha256" in problem for problem in folder_problems(str(folder), unlimited)] == [True]


def test_inputs_of_a_run_are_the_settings_and_the_model_they_name(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / JUDGE_FILE).write_text('{"kind": "generative", "max_length": 99, "model": "lm"}')
    found = folder_inputs("model.reward", str(tmp_path / "linked"))
    assert f"model.reward/{JUDGE_FILE}" in found
    assert "model.reward.base/model.safetensors" in found
    assert describe_judge(tmp_path / "linked")["weights_sha256"] == describe_judge(plain)["weights_sha256"]
    (tmp_path / "linked" / JUDGE_FILE).write_text('{"kind": "generative", "max_length": 99, "model": "./gone"}')
    with pytest.raises(ModelNotFoundError, match=r"the model ./gone of the judge in .* correct model in .*prl_judge"):
        GenerativeJudge.from_pretrained(str(tmp_path / "linked"))


def test_a_reward_model_is_calibrated_in_the_weight_of_its_head(tmp_path: Path) -> None:
    folder = write_tiny_reward_model(tmp_path / "rm", 3)
    judge = Judge.from_pretrained(folder)
    pairs = load_records(DataSource(str(pairs_file(tmp_path))), PreferencePair)
    before = judge_pairs(judge.model, pairs.records)
    assert fit_calibration(before).position_offset.mean == pytest.approx(0, abs=1e-6)
    fitted = Calibration(Interval(2.0, 1.0, 3.0), Interval(0.0, 0.0, 0.0))
    write_calibrated(judge.model, str(folder), tmp_path / "calibrated", fitted)
    after = judge_pairs(loaded_reward_model(tmp_path / "calibrated"), pairs.records)
    torch.testing.assert_close(after.verdict.win_logit, before.verdict.win_logit / fitted.temperature.mean)


def loaded_reward_model(folder: Path) -> BradleyTerryJudge:
    judge = BradleyTerryJudge(str(folder))
    judge.load()
    return judge


# ---- template and length as arguments


def test_a_template_is_given_to_a_model_whose_folder_names_none(plain: Path, tmp_path: Path, caplog) -> None:
    own = JudgeTemplate("{{ prompt }}1{{ response_a }}2{{ response_b }}", ("x", "y"))
    judge = Judge.from_pretrained(plain, template=own, max_length=700)
    assert judge.model.verdict_words == ("x", "y")
    judge.save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / JUDGE_FILE).read_text())
    assert (settings["max_length"], settings["template"]["verdicts"]) == (700, ["x", "y"])
    GenerativeJudge.from_pretrained(str(tmp_path / "saved"), template=own)  # the same again is no contradiction
    with pytest.raises(ValueError, match=r"template is given for the judge in .*; leave template out"):
        GenerativeJudge.from_pretrained(str(tmp_path / "saved"), template=JudgeTemplate())
    with pytest.raises(ValueError, match="template is of a generative judge, and .* holds a bradley_terry one"):
        Judge.from_pretrained(write_tiny_reward_model(tmp_path / "rm", 3), template=own)


def test_the_gate_sees_a_template_that_was_not_measured(plain: Path, tmp_path: Path, caplog) -> None:
    pairs = load_records(DataSource(str(pairs_file(tmp_path))), PreferencePair)
    judge = Judge.from_pretrained(plain)
    write_passport(plain, issue_passport(judge.model, plain, pairs, probes=False))
    own = JudgeTemplate("{{ prompt }}1{{ response_a }}2{{ response_b }}", ("x", "y"))
    for template, is_told in ((None, False), (own, True)):
        caplog.clear()
        check_judge(GenerativeJudge(str(plain), template=template), JudgeGate())
        told = [record.getMessage() for record in caplog.records]
        assert any("template_fingerprint is" in each for each in told) is is_told


# ---- chat templates of models that think

THINKING = {
    "as_qwen": (
        "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}ab{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "as_qwen3": (
        "{% for m in messages %}<s>{{ m.content }}{% endfor %}{% if add_generation_prompt %}ab"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "as_r1": (
        "{% for m in messages %}<s>{{ m.content }}{% endfor %}{% if add_generation_prompt %}ab<think>\n{% endif %}"
    ),
}


@pytest.mark.parametrize("kind", THINKING)
def test_thoughts_are_closed_before_the_verdict(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>", "\n\n"])
    tokenizer.chat_template = THINKING[kind]
    tiny_model(1, max_position_embeddings=2048, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = GenerativeJudge.from_pretrained(str(tmp_path))
    assert judge.encoder is not None
    one = Interval(1.0, 1.0, 1.0)
    write_calibrated(judge, str(tmp_path), tmp_path / "calibrated", Calibration(one, one))
    calibrated = GenerativeJudge.from_pretrained(str(tmp_path / "calibrated"))
    assert calibrated.encoder is not None
    assert calibrated.encoder.compiled == judge.encoder.compiled
    end = judge.encoder.tokenizer.decode(judge.encoder.compiled.pieces[-1])
    assert end.count("<think>") == end.count("</think>") == 1
    assert end.rstrip().endswith("</think>")
    assert math.isfinite(float(judge.compare([[{"role": "user", "content": "sort cab"}]], ["abc"], ["cab"]).win_logit))
