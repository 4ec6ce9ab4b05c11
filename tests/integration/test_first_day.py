"""What a run says at its beginning and its end, and what a start that is refused leaves behind."""

import json
import shutil
from pathlib import Path

import pytest

from prl.cli.entry import main
from prl.models.location import ADAPTERS
from tests.integration.runs import Home

MODEL = "--model.init_args."


def refused(args: list[str], capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(args)
    assert ending.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "longer", "told"),
    [
        ("supervised", ("--trainer.max_steps", "5"), "4 of 4 steps are done; raise trainer.max_steps"),
        pytest.param(
            *("pairwise_ppo", (f"{MODEL}iterations", "5")),
            "4 of 4 iterations are done; raise model.init_args.iterations",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_end_names_the_model_and_a_complete_run_has_nothing_to_do(
    stage: str, longer: tuple[str, str], told: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    best = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "epoch"]
    best += ["--trainer.callbacks.dirpath", str(tmp_path / "best"), "--trainer.val_check_interval", "2"]
    home.run(stage, run, *(best if stage == "supervised" else []))
    first = capsys.readouterr().err.splitlines()
    assert f"model: {run / 'model'}" in first
    assert not any("nothing to do" in line for line in first)
    named = [line for line in first if line.startswith("best checkpoint: ")]
    assert len(named) == (stage == "supervised")
    assert all(Path(line.split()[2]).exists() for line in named)
    home.run(stage, run, "--ckpt_path", "last")
    assert f"nothing to do: {told} to train on" in capsys.readouterr().err.splitlines()
    home.run(stage, run, "--ckpt_path", "last", *longer)
    assert "nothing to do" not in capsys.readouterr().err


def test_a_start_that_is_refused_leaves_no_events(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Refused before models are read, and while they are; the curves of an earlier session stay."""
    run = tmp_path / "run"
    early = home.arguments("supervised", run, f"{MODEL}max_length", "5")
    assert "max_length is 5" in refused(early, capsys)
    assert not list(run.glob("events*"))
    home.run("supervised", run)
    before = [path.read_bytes() for path in run.glob("events*")]  # an earlier file may get an earlier name
    assert len(before) == 1
    late = home.arguments("supervised", run, "--ckpt_path", "last", f"{MODEL}optimization.learning_rate", "0.5")
    assert "the configuration says" in refused(late, capsys)
    assert [path.read_bytes() for path in run.glob("events*")] == before


def test_sizes_of_an_iteration_are_checked_before_models_are_read(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lightning_modules.PairwisePPOModule.configure_model", lambda _: pytest.fail("models were read")
    )
    args = home.arguments("pairwise_ppo", tmp_path / "run", f"{MODEL}update.minibatches", "9")
    assert "update.minibatches is 9" in refused(args, capsys)


def test_a_folder_that_lacks_a_file_is_told_with_what_mends_it(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in (("tokenizer.json", "tokenizer*"), ("config.json", "config.json")):
        folder = shutil.copytree(home.policy, tmp_path / name)
        for path in folder.glob(files):
            path.unlink()
        args = home.arguments("generative_reward", tmp_path / "run", f"{MODEL}model.path", str(folder))
        assert f"folder {folder} holds no {name}; copy it there" in refused(args, capsys)
    adapters = shutil.copytree(home.tokenizer, tmp_path / "adapters")
    settings = {"base_model_name_or_path": "moved/base", "peft_type": "LORA"}
    (adapters / ADAPTERS).write_text(json.dumps(settings))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    args = home.arguments("generative_reward", tmp_path / "run", f"{MODEL}model.path", str(adapters))
    told = refused(args, capsys)
    assert f"the base model moved/base of the adapters in {adapters}" in told
    assert f"correct base_model_name_or_path in {adapters / ADAPTERS}" in told


def test_the_minutes_of_a_passport_are_announced(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    home.run("bradley_terry", tmp_path / "run", f"{MODEL}passport_pairs", "4")
    told = capsys.readouterr().err.splitlines()
    assert "passport: measuring the judge on 4 pairs" in told[told.index(f"model: {tmp_path / 'run' / 'model'}") :]


def test_an_odd_order_of_roles_is_counted(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [json.loads(line) for line in home.data("demonstrations.train").read_text().splitlines()]
    for number in (3, 5):
        text = rows[number - 1]["prompt"]
        text = text if isinstance(text, str) else text[-1]["content"]
        rows[number - 1]["prompt"] = [{"role": role, "content": text} for role in ("assistant", "user")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    home.run("supervised", tmp_path / "run", "--data.init_args.train.path", str(tmp_path / "rows.jsonl"))
    assert "rows.jsonl: an assistant message begins the conversation in 2 rows, first in row 3" in caplog.text
