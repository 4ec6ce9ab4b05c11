"""`prl rounds`: sample, judge, pair, train, and again; killed at any step it goes on to the same bits."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prl.cli.commands import rounds as command
from prl.cli.entry import main
from prl.cli.rounds_config import RoundsConfig
from prl.judge import Judge
from prl.pairs.parts import Parts
from tests.helpers.processes import run_all
from tests.integration.rounds import Killed, killed_after, made, rounds_settings, write_rounds
from tests.integration.runs import CONFIGS, Home


@pytest.fixture
def config(home: Home, tmp_path: Path) -> Path:
    return write_rounds(home, tmp_path / "rounds.yaml")


@pytest.mark.slow
def test_rounds_follow_each_other_and_a_kill_in_any_step_changes_nothing(
    config: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    args = ["rounds", "--config", str(config)]
    whole = tmp_path / "whole"
    main([*args, "--out", str(whole)])
    assert f"the last policy: {whole / 'round=2' / 'model'}" in capsys.readouterr().out
    reports = json.loads((whole / "rounds.json").read_text())
    assert [each["round"] for each in reports] == [1, 2]
    assert [each["pairs"]["prompts"] for each in reports] == [12, 12]  # dealt out
    assert all(each["low"] <= each["win_rate"] <= each["high"] for each in reports)
    # The second round samples and starts from what the first left: the policy beyond the trained one by half its way.
    assert reports[1]["policy"] == reports[0]["model"] == str(whole / "round=1" / "model")
    trained = [home.policy, *(whole / f"round={number}" / "fit" / "model" for number in (1, 2))]
    for number in (1, 2):
        before, after, beyond = (
            load_file(folder / "model.safetensors")
            for folder in (*trained[number - 1 : number + 1], whole / f"round={number}" / "model")
        )
        for name, weight in after.items():
            torch.testing.assert_close(beyond[name], weight + 0.5 * (weight - before[name]))
        assert max(float((beyond[name] - weight).abs().max()) for name, weight in after.items()) > 1e-3

    cut, stops = tmp_path / "cut", _stops()
    for owner, name, allowed in stops:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_after(getattr(owner, name), allowed))
            with pytest.raises(Killed):
                main([*args, "--out", str(cut)])
    main([*args, "--out", str(cut)])
    expected, found = made(whole), made(cut)
    assert len(expected) == 8
    assert found == expected


def _stops() -> list[tuple[Any, str, int]]:
    """Where to stop, after how many calls: while pairs are made, in training, behind it, while measuring, and again."""
    import prl.models.extrapolation
    import prl.rounds.measuring
    from lightning_modules import PreferenceModule

    return [
        (Parts, "add", 1),
        (PreferenceModule, "training_step", 1),
        (prl.models.extrapolation, "extrapolate", 0),
        (prl.rounds.measuring, "measure", 0),
        (Parts, "join", 0),
        (PreferenceModule, "training_step", 1),
    ]


def test_other_settings_and_strange_folders_are_refused(config: Path, home: Home, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(out)])
    assert "holds thesis.txt and no rounds" in capsys.readouterr().err
    (out / "thesis.txt").unlink()
    # Others of the options, and of a file that they name.
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {max_length: 64}}")
    fit = rounds_settings(home)["fit"]
    write_rounds(home, config, fit=fit | {"configs": [*fit["configs"], str(overlay)]})
    kept = RoundsConfig([f"--config={config}", "--rounds.number=9", "--pairs.seed=1"]).plain()
    (out / command.SETTINGS).write_text(json.dumps(kept))
    overlay.write_text("model: {init_args: {max_length: 65}} # longer")
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(out)])
    changed = f"pairs.seed, files.{overlay}.model.init_args.max_length"
    assert f"has rounds of other settings ({changed}); choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", sorted((CONFIGS / "rounds").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_that_come_with_prl_are_read(overlay: Path, tmp_path: Path) -> None:
    config = RoundsConfig([f"--config={CONFIGS / 'rounds' / 'dpo.yaml'}", f"--config={overlay}"])
    arguments = config.fit_arguments("policy", 1, tmp_path / "pairs.jsonl", tmp_path / "run")
    files = [each.partition("=")[2] for each in arguments if each.startswith("--config=")]
    assert files
    assert all((CONFIGS.parent / file).is_file() for file in files)
    assert "trainer.max_steps" in config.fit.options


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("rounds.number", "0", "rounds.number is 0; expected at least 1"),
        ("fit.options", '{"run_dir": "x"}', "fit.options sets run_dir, which each round sets by itself"),
        ("fit.options", '{"trainer.max_stepz": 2}', "unrecognized setting trainer.max_stepz"),
        ("fit.options", '{"trainer.num_nodes": 2}', "trainer.num_nodes is 2 in the fit of each round"),
        ("fit.configs", '["missing.yaml"]', "missing.yaml"),
        ("pairs.proposal_logprobs", "true", "proposal_logprobs is set, and lists is not"),
        ("fit.options", '{"model.init_args.objective": {"class_path": "SRPO"}}', "pairs.revision_prompt is 'better"),
        (
            "fit.options",
            '{"model.init_args.objective": {"class_path": "SPO", "init_args": {"objective": {"class_path": "SRPO"}}}}',
            "pairs.revision_prompt is 'better",
        ),
        ("fit.options", '{"model.init_args.objective": {"class_path": "SimPO"}}', "SimPO needs no reference"),
        (
            "fit.options",
            '{"model.init_args.objective": {"class_path": "TreePO"}}',
            "none, and pairs writes .*; set pairs.lists",
        ),
        (
            "fit.options",
            '{"model.init_args.objective": {"class_path": "TriplePO"}}',
            "'gold', which .* add it to the prompts",
        ),
        (
            "fit.options",
            '{"model.init_args.objective": {"class_path": "VPO", "init_args": {"optimistic": true}}}',
            "set pairs.calibration",
        ),
        ("validation", "null", "validation_reward is set, but no unseen prompts to measure on"),
        ("pairs.sampling.per_prompt", "1", "sampling.per_prompt is 1; BestWorst chooses among at least 2 candidates"),
        ("pairs.samplng", "1", "unrecognized setting"),
    ],
)
def test_mistakes_in_settings_are_told_first(option, value, message, config: Path, tmp_path: Path, capsys) -> None:
    more = ["--validation_reward", "prl.rewards.RuleReward"] if option == "validation" else []
    more += (
        ["--rounds.revisions", "1", "--pairs.revision_prompt", "better {response} {prompt}"] if "SRPO" in value else []
    )
    more += ["--rounds.reference", "start"] if "SimPO" in value else []
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(tmp_path / "out"), f"--{option}", value, *more])
    assert re.search(message.replace("(", r"\("), capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["vpo", "brain"])
def test_rounds_write_what_a_method_reads_and_a_held_out_reward_measures_too(
    method: str, home: Home, tmp_path: Path, capsys
) -> None:
    settings, overlay = rounds_settings(home), yaml.safe_load((CONFIGS / "rounds" / f"{method}.yaml").read_text())
    options = overlay["fit"]["options"] | settings["fit"]["options"]
    del options["data.init_args.validation.path"]
    further = {"calibration": {"path": str(home.policy)}} if method == "vpo" else {}
    heldout = {"class_path": "BradleyTerryJudge", "init_args": {"path": str(home.bradley_terry)}}
    config = write_rounds(
        home,
        tmp_path / "rounds.yaml",
        rounds=overlay["rounds"] | {"number": 1, "revisions": 1 if method == "vpo" else 0},
        pairs=settings["pairs"] | overlay["pairs"] | further,
        fit=overlay["fit"] | {"options": options},
        validation_reward=heldout,
    )
    main(["rounds", "--config", str(config), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "held-out win rate" in told
    assert ("revised win rate" in told) == (method == "vpo")
    (report,) = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert ("revised_validation_win_rate" in report) == (method == "vpo")
    rows = [json.loads(line) for line in (tmp_path / "out" / "round=1" / "samples.jsonl").read_text().splitlines()]
    for name in ("", "validation_"):
        wins = [row[f"{name}win_prob"] for row in rows]
        assert report[f"{name}win_rate"] == pytest.approx(sum(wins) / len(wins))
    judge = Judge.from_pretrained(home.bradley_terry)
    compared = judge.compare(*([row[name] for row in rows] for name in ("prompt", "response", "start")))
    assert [row["validation_win_prob"] for row in rows] == pytest.approx(compared.win_prob.tolist(), abs=1e-5)


def test_a_launcher_of_several_processes_is_refused(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SystemExit):
                main(["rounds", "--config", str(config), "--out", str(tmp_path / "out")])
        assert "prl rounds was started several times by a launcher" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fit_of_two_processes_is_that_of_one(home: Home, tmp_path: Path) -> None:
    """They are processes of the fit, and of no second command: pairs of the first round are the same file."""
    fit = rounds_settings(home)["fit"]
    made_by = {}
    for name, strategy, more in (("one", "ddp", 1), ("ddp", "ddp", 2), ("fsdp2", "fsdp2", 2)):
        configs = [*fit["configs"], str(CONFIGS / "strategies" / f"{strategy}.yaml")]
        # Behind the overlay, which may name more devices, another accelerator and bfloat16.
        options = {"trainer.devices": more, "trainer.accelerator": "cpu", "trainer.precision": "32-true"}
        own = fit if name == "one" else {"configs": configs, "options": fit["options"] | options}
        config = write_rounds(home, tmp_path / f"{name}.yaml", fit=own)
        command = [sys.executable, "-m", "prl", "rounds", "--config", str(config), "--out", str(tmp_path / name)]
        done = run_all(command, cwd=CONFIGS.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("round 1 of 2:") == 1
        manifest = tmp_path / name / "round=1" / "fit" / "checkpoints" / "batch-000002.json"
        assert json.loads(manifest.read_text())["world_size"] == more
        made_by[name] = tmp_path / name / "round=1"
    alone = load_file(made_by["one"] / "model" / "model.safetensors")
    for name in ("ddp", "fsdp2"):
        assert (made_by[name] / "pairs.jsonl").read_bytes() == (made_by["one"] / "pairs.jsonl").read_bytes()
        for weight, found in load_file(made_by[name] / "model" / "model.safetensors").items():
            torch.testing.assert_close(found, alone[weight], atol=1e-4, rtol=1e-4)
        reports = json.loads((tmp_path / name / "rounds.json").read_text())
        assert [each["round"] for each in reports] == [1, 2]


def test_ranked_signals_label_pairs_and_measure_rounds(home: Home, tmp_path: Path) -> None:
    sources = {
        name: {"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.{name}"}} for name in ("early", "length")
    }
    settings = rounds_settings(home)
    reward = {"class_path": "HERON", "init_args": {"sources": sources, "ranking": ["early", "length"]}}
    pairs = {**settings["pairs"], "reward": reward, "rule": "AllPairs"}
    config = write_rounds(home, tmp_path / "rounds.yaml", rounds={"number": 1}, pairs=pairs)
    main(["rounds", "--config", str(config), "--out", str(tmp_path / "out")])
    folder = tmp_path / "out" / "round=1"
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert {row["decided_by"] for row in rows} == {"early", "length"}
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in samples:
        ahead = early(None, row["response"], None) - early(None, row["start"], None)
        assert row["win_prob"] == (ahead > 0) or not ahead


def early(prompt: object, response: str, row: object) -> float:
    return float(sum(letter in "abcdefghijklm" for letter in response))


def length(prompt: object, response: str, row: object) -> float:
    return float(len(response))
