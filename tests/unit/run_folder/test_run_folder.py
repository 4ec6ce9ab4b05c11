"""Run folders and folders of a quickstart: what prl did not write stays."""

from pathlib import Path

import pytest

from prl.cli.commands.quickstart import _remove_earlier
from prl.models.model_card import CARD, write_card
from prl.run_folder.contents import RunFolderError, check_run_folder, clear_model, is_kept
from prl.system.outputs import writing_folder

HEADER = "# lightning.pytorch==2.6.6\nseed_everything: 0\n"
SETTINGS = {"model": {"class_path": "SupervisedModule"}}


def fill(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("config_dot_yaml", "# my own settings\n", HEADER),
        ("ledger_dot_jsonl", '{"entry": 1}\n', '{"session": {"resumed": 0}}\n'),
        ("validation_dot_jsonl", "[1]\n", '{"batch": 5, "kl": 0.1}\n'),
        ("data_report_dot_json", "IMPORTANT", '{"train": null}'),
        ("model__model_dot_safetensors", "a model of somebody", ""),
        ("model", "a file", ""),
    ],
)
def test_a_run_folder_with_something_else_by_the_name_of_a_result_is_refused(
    name: str, theirs: str, ours: str, tmp_path: Path
) -> None:
    check_run_folder(fill(tmp_path / "new"))
    with pytest.raises(RunFolderError, match="is there and prl did not write it"):
        check_run_folder(fill(tmp_path / "theirs", **{name: theirs}))
    if ours:
        check_run_folder(fill(tmp_path / "ours", **{name: ours}))


def test_the_model_of_an_overwritten_run_goes_and_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    model = fill(tmp_path, model__model_dot_safetensors="x", model__tokenizer_dot_json="x", model__notes_dot_txt="mine")
    write_card(model / "model", None, SETTINGS)
    check_run_folder(tmp_path)
    clear_model(tmp_path)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]
    (tmp_path / "model" / CARD).write_text("# an edited card\n")
    with writing_folder(tmp_path / "model", is_kept) as partial:
        fill(partial, model_dot_safetensors="y")
        write_card(partial, None, SETTINGS)
    files = {path.name: path.read_text() for path in (tmp_path / "model").iterdir()}
    assert files == {"model.safetensors": "y", "notes.txt": "mine", CARD: "# an edited card\n"}


RUN = {"config_dot_yaml": HEADER, "seconds_dot_json": "1", "checkpoints__batch-000002_dot_ckpt__part": "x"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"judge__thesis_dot_txt": "years of work"},
        {"judge__model__model_dot_safetensors": "a judge of somebody"},
        {"ppo__config_dot_yaml": "# mine\n"},
        {**{f"ppo__{name}": text for name, text in RUN.items()}, "ppo__test__thesis_dot_txt": "years of work"},
        {"world__pairs_dot_train_dot_jsonl": "rows of somebody"},
        {"world": "a file"},
        {"report_dot_json": '{"my": "report"}'},
    ],
)
def test_a_quickstart_takes_nothing_away_that_none_wrote(theirs: dict[str, str], tmp_path: Path) -> None:
    fill(tmp_path, **{f"supervised__{name}": text for name, text in RUN.items()}, **theirs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"(give another --out|choose another)"):
        _remove_earlier(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_earlier_quickstart_is_replaced_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    fill(tmp_path, **{f"supervised__{name}": text for name, text in RUN.items()}, report__x_dot_txt="x")
    fill(tmp_path, world__tokenizer__tokenizer_dot_json="x", world__pairs_dot_train_dot_jsonl="x")
    fill(tmp_path, ppo__data_report_dot_json='{"train": null}')  # ended before its training began
    _remove_earlier(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["report", "x.txt"]


def test_a_run_that_lost_its_checkpoints_did_not_die_young(tmp_path: Path) -> None:
    """Started from the beginning it would lose its model, or checkpoints that were copied without manifests."""
    from prl.cli.app import _died_young

    checkpoints = tmp_path / "checkpoints"
    assert not _died_young(tmp_path / "mistyped", True)
    (tmp_path / "mine.txt").write_text("")
    assert not _died_young(tmp_path, True)
    (tmp_path / "mine.txt").unlink()
    assert not _died_young(tmp_path, True)  # a disk that is not mounted
    (tmp_path / "hparams.yaml").write_text("{}")
    assert not _died_young(tmp_path, True)  # of any Lightning run
    (tmp_path / "data_report.json").write_text('{"train": null}')  # killed before its training began
    assert _died_young(tmp_path, True)
    assert not _died_young(tmp_path, False)
    checkpoints.mkdir()
    (tmp_path / "config.yaml").write_text("")
    assert _died_young(tmp_path, True)
    assert not _died_young(tmp_path, False)
    (checkpoints / "batch-000002.ckpt").write_text("")
    assert _died_young(tmp_path, True)
    assert _died_young(tmp_path, False)  # killed between the checkpoint and its manifest
    (checkpoints / "batch-000004.ckpt").write_text("")
    assert not _died_young(tmp_path, True)
    assert not _died_young(tmp_path, False)
    (checkpoints / "batch-000004.ckpt").unlink()
    (tmp_path / "model").mkdir()
    assert not _died_young(tmp_path, True)
    assert not _died_young(tmp_path, False)
