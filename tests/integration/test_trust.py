"""A run folder from somebody else is data: nothing that its config names is imported until the user says so."""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from prl.cli.app import run_stage
from prl.cli.entry import main
from prl.run_folder.trust import take_flag
from tests.integration.runs import Home

YES = ("--trust_run_folder", "true")


@pytest.fixture(scope="module")
def shipped(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the config.yaml of a run of PPO."""
    folder = tmp_path_factory.mktemp("printed")
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        run_stage(home.arguments("pairwise_ppo", folder, "--print_config"))
    return out.getvalue()


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Make an importable module that records whether it was imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil_code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from lightning import Callback, LightningDataModule\n"
        "class Spy(Callback): ...\n"
        "class Data(LightningDataModule): ...\n"
        "def rule(prompt, response, row): return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "evil_code", raising=False)
    return lambda: (tmp_path / "ran").exists()


def planted(folder: Path, shipped: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Make a run folder whose config was changed."""
    settings = yaml.safe_load(shipped)
    change(settings)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run"


def model(settings: dict[str, Any]) -> dict[str, Any]:
    return settings["model"]["init_args"]


def rule_of(name: str) -> dict[str, Any]:
    return {"class_path": "prl.rewards.RuleReward", "init_args": {"rule": name}}


def told(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of a command that ends with a mistake."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


SPY = {"class_path": "evil_code.Spy"}
FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "callback": (lambda s: s["trainer"].update(callbacks=[SPY]), "evil_code.Spy (trainer.callbacks.0)"),
    "a name like a known one": (
        lambda s: s["trainer"].update(callbacks=[{"class_path": "prl_evil.Spy"}]),
        "prl_evil.Spy (trainer.callbacks.0)",
    ),
    "function": (lambda s: model(s).update(reward=rule_of("evil_code.rule")), "evil_code.rule"),
    "another file": (lambda s: s.update(data="other.yaml"), "evil_code.Data"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_run_folder_names_known_code_alone(
    name: str, shipped: str, evil: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = FOREIGN[name]
    run = planted(tmp_path, shipped, change)
    (run / "other.yaml").write_text("class_path: evil_code.Data\n")
    validate = ["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    line = told(validate if name == "function" else ["resume", str(run)], capsys)
    assert line.startswith(f"prl: UntrustedRunError: {run}/config.yaml is the config of a run folder and asks for")
    assert f": {words}. If the run is yours or you trust it, add --trust_run_folder true" in line
    assert not evil()


@pytest.mark.parametrize("option", ["-c", "--config", "--config="])
def test_a_config_that_came_without_its_run_is_data_unless_a_run_starts_with_it(
    option: str, shipped: str, evil: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted(tmp_path, shipped, FOREIGN["callback"][0])
    (run / "checkpoints").rmdir()
    given = [f"{option}{run}/config.yaml"] if option.endswith("=") else [option, f"{run}/config.yaml"]
    for verb in (["validate"], ["fit", "--ckpt_path", "last"]):
        assert "UntrustedRunError" in told([*verb, *given], capsys)
        assert not evil()
    assert "DataError" in told(["fit", *given, "--data.init_args.train.path", str(tmp_path / "no.jsonl")], capsys)
    assert evil()  # a callback of the user's own


def test_all_that_needs_a_word_is_told_at_once_and_obeyed_with_it(
    shipped: str,
    evil: Callable[[], bool],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET", "secret")

    def change(settings: dict[str, Any]) -> None:
        settings["weights_only"] = False
        settings["trainer"]["callbacks"] = [SPY]
        model(settings)["policy"]["trust_remote_code"] = True
        server = {"base_url": "https://h/v1", "folder": "f", "api_key_env": "AWS_SECRET"}
        model(settings)["sampler"] = {"class_path": "prl.rollouts.RolloutServer", "init_args": server}

    run = planted(tmp_path, shipped, change)
    line = told(["resume", str(run)], capsys)
    for words in (
        "; weights_only: false.",
        "model.init_args.policy.trust_remote_code: true",
        "sampler.init_args.api_key_env: AWS_SECRET, to be sent to https://h/v1",
        "evil_code.Spy",
    ):
        assert words in line
    assert not evil()
    assert "RunFolderError" in told(["resume", str(run), *YES], capsys)  # there is no checkpoint
    assert evil()


def test_export_asks_for_what_it_builds(
    shipped: str, evil: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted(tmp_path, shipped, FOREIGN["function"][0])
    checkpoint = run / "checkpoints" / "copy.ckpt"
    torch.save({"state_dict": {}}, checkpoint)
    command = ["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    with FileLock(tmp_path / ".lock"):  # another program's, such as pytest's: this is no run folder
        assert "evil_code.rule" in told(command, capsys)
    assert not evil()
    with pytest.raises(Exception, match=r"state_dict|weights|keys|Missing"):
        main([*command, *YES])
    assert evil()


def test_a_callback_of_the_command_line_needs_no_word(
    shipped: str, evil: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted(tmp_path, shipped, lambda _: None)
    assert "RunFolderError" in told(["resume", str(run), "--trainer.callbacks+=evil_code.Spy"], capsys)
    assert evil()


def test_the_flag_is_taken_from_the_command_line() -> None:
    assert take_flag(["fit", "--trust_run_folder", "true", "--x", "1"]) == (["fit", "--x", "1"], True)
    assert take_flag(["fit", "--trust_run_folder=false"]) == (["fit"], False)
    assert take_flag(["fit"]) == (["fit"], False)
    for args in (["--trust_run_folder"], ["--trust_run_folder", "fit"]):
        with pytest.raises(ValueError, match="--trust_run_folder is .*; expected true or false"):
            take_flag(args)
