"""Models that prl did not train as judges, in every command that takes a judge."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from prl.cli.entry import main
from prl.evaluation.bootstrap import Interval
from prl.judge import Judge, JudgeTemplate
from prl.judge.calibrated import Calibration, write_calibrated
from tests.helpers.tiny import tiny_model, tiny_tokenizer
from tests.integration.runs import Home, Numbers, callback, find_callback

MODEL = "--model.init_args."


def reward(kind: str, folder: Path) -> tuple[str, str]:
    return (f"{MODEL}reward", json.dumps({"class_path": kind, "init_args": {"path": str(folder)}}))


def test_an_instruct_model_is_calibrated_and_then_judges_everywhere(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    calibrated, pairs = tmp_path / "calibrated", str(home.data("pairs.train"))
    template = JudgeTemplate("{{ prompt }}\n{{ response_a }}\n{{ response_b }}\n", chat=False)
    judge = Judge.from_pretrained(home.policy, template=template)
    # No temperature fits a judge of random weights, so one is planted.
    planted = Calibration(Interval(1.5, 1.0, 2.0), Interval(0.4, 0.3, 0.5))
    write_calibrated(judge.model, str(home.policy), calibrated, planted)
    main(["judge", "--judge", str(calibrated), "--pairs", pairs, "--write-passport"])
    assert (calibrated / "rm_passport.json").is_file()
    main(
        [
            *("anchors", "--policy", str(home.policy), "--prompts", str(home.data("prompts.train")), "--limit", "4"),
            *("--samples", "2", "--max_new_tokens", "5", "--judge", str(calibrated)),
            *("--output", str(tmp_path / "anchors.jsonl")),
        ]
    )
    made = json.loads((tmp_path / "anchors.provenance.json").read_text())
    assert made["judge"]["position_offset"] != 0
    cli = home.run("pairwise_ppo", tmp_path / "run", callback(Numbers), *reward("GenerativeJudge", calibrated))
    numbers = find_callback(cli.trainer, Numbers).training
    assert all(0 < each["reward/win_prob"] < 1 for each in numbers)
    inputs = json.loads((calibrated / "prl_judge.json").read_text())
    assert inputs["model"] == str(home.policy.resolve())


@pytest.mark.parametrize("kind", ["prl.judge.BradleyTerryJudge", "prl.rewards.ScalarReward"])
def test_a_classifier_of_another_maker_rewards_a_run(kind: str, home: Home, tmp_path: Path) -> None:
    model = tiny_model(2, AutoModelForSequenceClassification, num_labels=1, max_position_embeddings=2048)
    model.save_pretrained(tmp_path / "rm")
    tiny_tokenizer().save_pretrained(tmp_path / "rm")
    cli = home.run("pairwise_ppo", tmp_path / "run", callback(Numbers), *reward(kind, tmp_path / "rm"))
    assert all(each["reward/score"] == each["reward/score"] for each in find_callback(cli.trainer, Numbers).training)
