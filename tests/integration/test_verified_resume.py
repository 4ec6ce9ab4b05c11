"""`prl resume --verify` says "exact" of a sound run, and names what a planted fault changes first."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import datamodules.base
from lightning_modules.callbacks import random_states
from prl.checkpoints.ledger import LEDGER, read_ledger
from prl.cli.entry import main
from prl.judge.generative import GenerativeJudge
from prl.rl.kl_controller import AdaptiveKL
from tests.integration.runs import Home, last_checkpoint

MODEL = "--model.init_args."


@pytest.fixture(scope="module")
def run(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations, of which the last two are replayed; only read."""
    folder = tmp_path_factory.mktemp("verified") / "run"
    settings = (f"{MODEL}optimization.schedule", "cosine", "--trainer.limit_val_batches", "0")
    adaptive = (f"{MODEL}kl.target", "0.5", f"{MODEL}kl.horizon", "50")
    home.run("pairwise_ppo", folder, *settings, *adaptive)
    return folder


def contents(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_sound_run_is_exact_and_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    main(["resume", str(run), "--verify", "3"])
    told = capsys.readouterr().out
    assert "exact: batches 3 to 4, from " in told
    assert "batch-000002.ckpt (the ledger has 2 after it, 3 were asked for)" in told
    assert contents(run) == before


def test_the_ledger_tells_batches_apart_by_all_that_it_knows_of_them(run: Path) -> None:
    lines = read_ledger(run / LEDGER)[0].values()
    for name in ("data", "rng", "responses", "rewards", "weights"):
        assert len({str(line[name]) for line in lines}) == len(lines) == 4, name


Patch = pytest.MonkeyPatch


def random_states_not_continued(patch: Patch) -> None:
    patch.setattr(random_states, "set_random_states", lambda states: None)


def sampler_from_the_start(patch: Patch) -> None:
    patch.setattr(datamodules.base, "batches_done", lambda trainer: 0)


def cached_row_with_another_token(patch: Patch) -> None:
    read = datamodules.base._Numbered.__getitems__

    def damaged(self: Any, indices: list[int]) -> list[dict[str, Any]]:
        rows = read(self, indices)
        rows[0] = {**rows[0], "ids": [*rows[0]["ids"][:-1], rows[0]["ids"][-1] ^ 1]}
        return rows

    patch.setattr(datamodules.base._Numbered, "__getitems__", damaged)


def kl_coefficient_not_continued(patch: Patch) -> None:
    patch.setattr(AdaptiveKL, "load_state_dict", lambda self, state: None)


def schedule_not_continued(patch: Patch) -> None:
    patch.setattr(torch.optim.lr_scheduler.LambdaLR, "load_state_dict", lambda self, state: None)


def dropout(patch: Patch) -> None:
    from lightning_modules import pairwise_ppo

    load = pairwise_ppo.load_causal_lm

    def with_dropout(*args: Any) -> Any:
        model = load(*args)
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(
            lambda module, _, output: torch.nn.functional.dropout(output, 0.1, training=model.training)
        )
        return model

    patch.setattr(pairwise_ppo, "load_causal_lm", with_dropout)


def judge_calibrated_otherwise(patch: Patch) -> None:
    margins = GenerativeJudge.margins
    patch.setattr(GenerativeJudge, "margins", lambda self, comparisons: margins(self, comparisons) / 2)


def prompts_filtered_otherwise(patch: Patch) -> None:
    select = datamodules.base.RecordDataModule._select

    def fewer(self: Any, name: str, records: Any, kept: Any, reports: Any) -> Any:
        return select(self, name, records, kept[:-8] if name == "train" else kept, reports)

    patch.setattr(datamodules.base.RecordDataModule, "_select", fewer)


@pytest.mark.parametrize(
    ("plant", "batch", "quantity"),
    [
        (random_states_not_continued, 3, "rng"),
        (sampler_from_the_start, 3, "data"),
        pytest.param(prompts_filtered_otherwise, 3, "data", marks=pytest.mark.slow),
        (cached_row_with_another_token, 3, "data"),
        (kl_coefficient_not_continued, 3, "state.kl.coef"),
        (schedule_not_continued, 3, "learning_rate"),
        (dropout, 3, "numbers"),
        pytest.param(judge_calibrated_otherwise, 3, "rewards", marks=pytest.mark.slow),
    ],
)
def test_a_planted_fault_is_caught_and_named(
    plant: Callable[[Patch], None], batch: int, quantity: str, run: Path, monkeypatch: Patch, capsys: Any
) -> None:
    plant(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main(["resume", str(run), "--verify", "2"])
    assert ended.value.code == 1
    assert f"batch {batch} differs first, in {quantity}" in capsys.readouterr().out


def test_resume_continues_from_the_config_of_the_run(home: Home, run: Path, tmp_path: Path) -> None:
    """Also after the folder was moved, with settings that are added behind, and with an edit that is meant."""
    moved = tmp_path / "moved"
    shutil.copytree(run, moved, symlinks=True)
    config = moved / "config.yaml"
    config.write_text("# A remark\n" + config.read_text())
    main(["resume", str(moved), f"{MODEL}iterations", "5", "--accept_changes", "[config.yaml]"])
    assert last_checkpoint(moved)["global_step"] > last_checkpoint(run)["global_step"]
    lines, facts = read_ledger(moved / LEDGER)
    assert list(lines) == [1, 2, 3, 4, 5]
    assert facts["resumed"] == 4


def test_what_cannot_be_verified_says_why(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["resume", *args])
        assert ended.value.code == 1
        return capsys.readouterr().err

    assert "config.yaml; give the folder of a run" in refused(str(tmp_path), "--verify", "1")
    assert "--verify is 0" in refused(str(run), "--verify", "0")
    last = str(run / "checkpoints" / "last.ckpt")
    assert "checkpoint.keep" in refused(str(run), "--verify", "1", "--ckpt", last)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    (copy / LEDGER).write_text(json.dumps({"session": {"resumed": 0}}) + "\n")
    assert "nothing to compare" in refused(str(copy), "--verify", "1")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config[: config.index("\n", config.index("path:")) + 1])
    assert "config.yaml has changed since the run wrote it: its end is missing" in refused(str(copy))
    (copy / "config.yaml").write_text(config)
    (copy / LEDGER).unlink()
    assert "there is no ledger" in refused(str(copy), "--verify", "1")
