"""The examples of docs/extending.md, in a file outside of the package, through the command line."""

import re
from pathlib import Path

import pytest
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


def test_a_preference_objective_of_ones_own_trains(home: Home, mine: Path, tmp_path: Path) -> None:
    cli = home.run("preference", tmp_path / "run", f"{MODEL}objective", "mine.Hinge")
    assert type(cli.model.objective).__name__ == "Hinge"
    assert 0 < float(cli.trainer.callback_metrics["train/loss"]) < 2
