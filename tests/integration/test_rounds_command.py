"""`prl rounds`: sample, judge, pair, train, and again; killed at any step it goes on to the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prl.cli.commands import rounds as command
from prl.cli.entry import main
from prl.cli.rounds_config import RoundsConfig
from prl.pairs.parts import Parts
from tests.integration.runs import CONFIGS, Home


class Killed(BaseException):
    """Ends a command as a signal would, from the inside."""


@pytest.fixture
def config(home: Home, tmp_path: Path) -> Path:
    options = {
        "trainer.max_steps": 2,
        "trainer.enable_progress_bar": False,
        "trainer.limit_val_batches": 0,
        "trainer.val_check_interval": None,
        "checkpoint.every_n_batches": 1,
        "data.init_args.batch_size": 4,
        "model.init_args.optimization": {"learning_rate": 0.01, "schedule": "constant", "warmup": 0},
        "data.init_args.validation.path": str(home.data("pairs.validation")),
    }
    settings = {
        "rounds": {"number": 2, "prompt_shares": 2, "extrapolation": 0.5},
        "pairs": {
            "policy": {"path": str(home.policy)},
            "prompts": {"path": str(home.data("prompts.train")), "limit": 24},
            "reward": {"class_path": "GenerativeJudge", "init_args": {"path": str(home.judge)}},
            "sampling": {"per_prompt": 4, "max_new_tokens": 5},
            "checks": {"orders_agree": False, "keep_unfinished": True},
            "batch_size": 16,
        },
        "fit": {"configs": [str(CONFIGS / "quickstart" / "preference.yaml")], "options": options},
        "validation": {"path": str(home.data("prompts.validation")), "limit": 6},
    }
    path = tmp_path / "rounds.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def made(out: Path) -> dict[str, bytes]:
    """Everything that rounds leave and that must not depend on a kill."""
    rows = [path for path in sorted(out.rglob("*.jsonl")) if "ledger" not in path.name]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*rows, *sorted(out.rglob("model.safetensors"))]}


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
            patch.setattr(owner, name, _stopping(getattr(owner, name), allowed))
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


def _stopping(original: Any, allowed: int) -> Any:
    left = iter(range(allowed))

    def stopped(*given: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return original(*given, **named)

    return stopped


def test_other_settings_and_strange_folders_are_refused(config: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(out)])
    assert "holds thesis.txt and no rounds" in capsys.readouterr().err
    (out / "thesis.txt").unlink()
    settings = yaml.safe_load(config.read_text())
    (out / command.SETTINGS).write_text(json.dumps({"rounds": {"number": 9}, "pairs": settings["pairs"]}))
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(out)])
    assert "has rounds of other settings (" in capsys.readouterr().err


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
        ("pairs.sampling.per_prompt", "1", "sampling.per_prompt is 1; BestWorst chooses among at least 2 candidates"),
        ("pairs.samplng", "1", "unrecognized setting"),
    ],
)
def test_mistakes_in_settings_are_told_first(option, value, message, config: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["rounds", "--config", str(config), "--out", str(tmp_path / "out"), f"--{option}", value])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
