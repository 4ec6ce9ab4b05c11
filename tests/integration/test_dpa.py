"""Directional preference alignment from its reward model to its rounds, which are rounds of best-of-n distillation."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl.cli.entry import main
from prl.cli.rounds_config import RoundsConfig
from prl.pairs.directions import integer_weights
from prl.pairs.parts import Parts
from prl.quickstart.world import gold_quality
from prl.rewards.folder import read_judge_file
from tests.integration.rounds import Killed, killed_after, made
from tests.integration.runs import CONFIGS, Home

QUICK = {"trainer.max_steps": 2, "trainer.enable_progress_bar": False, "trainer.val_check_interval": None}
ATTRIBUTES = ("correctness", "length")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def attributed(home: Home, split: str, path: Path) -> Path:
    """Write the world's pairs with two scores of each response, some of them unknown."""
    rows = read(home.data(f"pairs.{split}"))
    for number, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            row[f"{side}_correctness"] = gold_quality(row["prompt"], row[side]) if number % 3 else None
            if number % 4:
                row[f"{side}_length"] = len(row[side]) / 2
            elif not number % 3:
                row[f"{side}_correctness"] = 0.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def reward_model(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the heads by the overlay that comes with prl."""
    root = tmp_path_factory.mktemp("heads")
    data = {split: attributed(home, split, root / f"{split}.jsonl") for split in ("train", "validation")}
    overlay = ["--config", str(CONFIGS / "methods" / "multi_head.yaml")]
    overlay += [each for split, path in data.items() for each in (f"--data.init_args.{split}.path", str(path))]
    home.run("bradley_terry", root / "run", *overlay)
    return root / "run" / "model"


@pytest.fixture
def config(home: Home, reward_model: Path, tmp_path: Path) -> Path:
    options = {
        **QUICK,
        "trainer.limit_val_batches": 0,
        "checkpoint.every_n_batches": 1,
        "data.init_args.batch_size": 4,
        "data.init_args.validation.path": str(home.data("demonstrations.validation")),
        "model.init_args.model.config": None,
        "model.init_args.model.tokenizer": None,
        "model.init_args.optimization": {"learning_rate": 0.01, "schedule": "constant", "warmup": 0},
    }
    settings = {
        "rounds": {"number": 2, "prompt_shares": 2},
        "pairs": {
            "policy": {"path": str(home.policy)},
            "prompts": {"path": str(home.data("prompts.train")), "limit": 24},
            "reward": {
                "class_path": "MultiHead",
                "init_args": {"path": str(reward_model), "column": "direction"},
            },
            "rule": "BestOfN",
            "directions": {"attributes": list(ATTRIBUTES), "template": "{correctness},{length} {prompt}"},
            "sampling": {"per_prompt": 4, "max_new_tokens": 5},
            "checks": {"keep_unfinished": True},
            "batch_size": 16,
        },
        "fit": {"configs": [str(CONFIGS / "quickstart" / "supervised.yaml")], "options": options},
        "validation": {"path": str(home.data("prompts.validation")), "limit": 6},
    }
    path = tmp_path / "dpa.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_folder_of_the_reward_model_names_its_heads(reward_model: Path) -> None:
    assert read_judge_file(reward_model)["head_names"] == list(ATTRIBUTES)


def test_an_attribute_that_no_row_has_is_told_before_the_first_step(home: Home, tmp_path: Path, capsys) -> None:
    path = attributed(home, "train", tmp_path / "train.jsonl")
    path.write_text(path.read_text().replace("rejected_length", "rejected_lenght"))
    overlay = ("--config", str(CONFIGS / "methods" / "multi_head.yaml"), "--data.init_args.train.path", str(path))
    with pytest.raises((SystemExit, ValueError)) as found:
        home.run("bradley_terry", tmp_path / "run", *overlay, "--data.init_args.validation", "null")
    told = f"{found.value} {capsys.readouterr().err}"
    assert "data.train has no number in the column 'rejected_length' of any row" in told


@pytest.mark.slow
def test_rounds_keep_the_best_for_each_direction_and_a_kill_in_any_step_changes_nothing(
    config: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import prl.rounds.measuring
    from lightning_modules import SupervisedModule

    args, whole, cut = ["rounds", "--config", str(config)], tmp_path / "whole", tmp_path / "cut"
    main([*args, "--out", str(whole)])
    assert "demonstrations" in capsys.readouterr().out
    reports = json.loads((whole / "rounds.json").read_text())
    assert [each["demonstrations"]["prompts"] for each in reports] == [12, 12]
    assert all(each["low"] <= each["win_rate"] <= each["high"] for each in reports)
    prompts = read(home.data("prompts.train"))
    seen = set()
    for number in (1, 2):
        rows = read(whole / f"round={number}" / "demonstrations.jsonl")
        assert len(rows) == reports[number - 1]["demonstrations"]["demonstrations"] > 6
        share = [row["prompt"] for row in prompts[:24][number - 1 :: 2]]
        for row in rows:
            weights = integer_weights([row["direction"][name] for name in ATTRIBUTES])
            (turn,) = row["prompt"]
            told, _, plain = turn["content"].partition(" ")
            assert told == f"{weights[0]},{weights[1]}"
            assert plain in share
            assert row["reward"] >= row["mean_reward"]
            seen.add(weights)
    assert len(seen) > 12  # drawn anew for each prompt and round
    samples = read(whole / "round=2" / "samples.jsonl")
    assert all(row["prompt"][0]["content"][0].isdigit() for row in samples)

    for owner, name, allowed in (
        (Parts, "add", 1),
        (SupervisedModule, "training_step", 1),
        (prl.rounds.measuring, "measure", 0),
        (Parts, "join", 0),
        (SupervisedModule, "training_step", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_after(getattr(owner, name), allowed))
            with pytest.raises(Killed):
                main([*args, "--out", str(cut)])
    main([*args, "--out", str(cut)])
    expected, found = made(whole), made(cut)
    assert len(expected) == 6
    assert found == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("rounds.reference", "start", "BestOfN makes demonstrations, which train without a reference"),
        ("pairs.rule", "BestWorst", "learns from Demonstration rows, but pairs.rule BestWorst makes pairs"),
        (
            "fit.configs",
            f"[{CONFIGS}/quickstart/preference.yaml]",
            "name a config of SupervisedModule, or another rule",
        ),
        ("pairs.labels", "soft", "labels: soft is about two responses, and BestOfN keeps single ones"),
        ("pairs.checks.min_win_prob", "0.6", "checks.min_win_prob 0.6 is about two responses"),
        ("pairs.revisions", "1", "directions and revisions are both set"),
        ("rounds.revisions", "1", "rounds.revisions and pairs.directions are both set"),
        ("pairs.directions.angles", "[40, 30]", "directions.angles is [40.0, 30.0]"),
    ],
)
def test_mistakes_in_settings_are_told_first(option, value, message, config: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(tmp_path / "out"), f"--{option}", value])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_config_that_comes_with_prl_has_directions() -> None:
    config = RoundsConfig([f"--config={CONFIGS / 'rounds' / name}.yaml" for name in ("dpo", "dpa")])
    maker = config.maker("policy", 1)
    assert (config.rows, maker.reward.column) == ("demonstrations", "direction")
    assert maker.directions is not None
    assert maker.directions.attributes == list(ATTRIBUTES)
