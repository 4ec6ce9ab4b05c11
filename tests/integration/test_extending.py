"""The examples of docs/extending.md, in a file outside of the package, through the command line."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from prl.cli.app import run_stage
from tests.integration.runs import Home, differences, last_checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
SETTINGS = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
MODEL = "--model.init_args."


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the page's classes into a file of a user."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    (folder / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def fit(home: Home, mine: Path, run: Path, *more: str) -> None:
    arguments = home.arguments("pairwise_ppo", run)
    for option in (f"{MODEL}critic.warmup", f"{MODEL}reward.init_args.path"):  # the page has neither critic nor judge
        place = arguments.index(option)
        del arguments[place : place + 2]
    run_stage([*arguments[:3], "--config", str(mine / "mine.yaml"), *arguments[3:], *more])


def test_methods_of_ones_own_train_together_and_are_resumed_exactly(home: Home, mine: Path, tmp_path: Path) -> None:
    assert all(f"mine.{name}" in str(SETTINGS) for name in ("Sorted", "Brevity", "RunningScale", "LongEnough"))
    fit(home, mine, tmp_path / "whole")
    fit(home, mine, tmp_path / "cut", f"{MODEL}iterations", "2")
    fit(home, mine, tmp_path / "cut", "--ckpt_path", "last")
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    assert differences(whole["state_dict"], cut["state_dict"]) == []
    assert whole["run_state"]["shaping.0"] == cut["run_state"]["shaping.0"] != {"mean": 1.0}


@pytest.mark.parametrize("name", ["Hinge", "Confident"])
def test_a_preference_objective_of_ones_own_trains(name: str, home: Home, mine: Path, tmp_path: Path) -> None:
    cli = home.run("preference", tmp_path / "run", f"{MODEL}objective", f"mine.{name}")
    assert type(cli.model.objective).__name__ == name
    assert 0 < float(cli.trainer.callback_metrics["train/loss"]) < 2
    assert (name == "Confident") == any(each.any() for each in cli.model.heads.parameters())


@pytest.mark.parametrize("stage", ["generative_reward", "bradley_terry"])
def test_a_reward_objective_of_ones_own_trains_a_judge_and_a_scalar_model(
    stage: str, home: Home, mine: Path, tmp_path: Path
) -> None:
    paths = []
    for side in ("train", "validation"):
        rows = [json.loads(line) for line in home.data(f"pairs.{side}").read_text().splitlines()]
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps({**row, "stars": 1 + n % 3}) + "\n" for n, row in enumerate(rows)))
        paths += [f"--data.init_args.{side}.path", str(path)]
    objective = (f"{MODEL}objective", "mine.MarginBradleyTerry", f"{MODEL}objective.init_args.scale", "0.25")
    cli = home.run(stage, tmp_path / "run", *paths, *objective)
    assert (type(cli.model.objective).__name__, cli.model.objective.scale) == ("MarginBradleyTerry", 0.25)
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert (tmp_path / "run" / "model" / "prl_judge.json").is_file()


def test_a_reward_and_a_judge_of_pictures_of_ones_own(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.helpers.pictures import write_pictures, write_stable_diffusion_3
    from tests.integration.test_image_runs import arguments
    from tests.integration.test_tensorboard import events, scalars

    write_pictures(tmp_path / "data")
    write_stable_diffusion_3(tmp_path / "flow", latent=False)
    rate = {"class_path": "prl.diffusion.rewards.WinRate", "init_args": {"judge": "mine.Redder"}}
    for name, reward in (("Redness", "mine.Redness"), ("Redder", json.dumps(rate))):
        own = (f"{MODEL}reward", reward, f"{MODEL}heldout_reward", "mine.Redness", f"{MODEL}iterations", "2")
        run_stage(arguments(tmp_path, "trajectory_policy", tmp_path / name, *own))
        found = scalars(events(tmp_path / name))
        assert "val/heldout_reward" in found
        if name == "Redder":  # a share of the pictures of a prompt
            assert {value for _, value in found["reward/score"]} == {0.5}
