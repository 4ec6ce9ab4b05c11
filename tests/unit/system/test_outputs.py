"""Places that may be written to, and files and folders that are whole or not there."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from prl.cli.commands import COMMANDS
from prl.system.full_disk import is_disk_full, save_tensors
from prl.system.outputs import partial_path, save_picture, write_text, writing, writing_folder

HERE = Path(__file__).parent


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.with_suffix(".partial").write_text("somebody else's")
    write_text(path, "old")

    def fail() -> None:
        with writing(path) as partial:
            partial.write_text("new, but cut")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "report.json": "old",
        "report.partial": "somebody else's",
    }


@pytest.mark.parametrize("killed", ["while writing", "before the new one is in place", "before the old one is gone"])
def test_a_replaced_folder_keeps_what_others_put_there_wherever_it_was_killed(killed: str, tmp_path: Path) -> None:
    folder, old = tmp_path / "model", partial_path(tmp_path / "model").with_suffix(".old")

    def is_kept(path: Path) -> bool:
        return path.name == "notes.txt"

    folder.mkdir()
    (folder / "weights").write_text("old")
    (folder / "notes.txt").write_text("mine")
    if killed == "while writing":
        shutil.copytree(folder, partial_path(folder))
    else:
        folder.rename(old)
        if killed == "before the old one is gone":
            folder.mkdir()
            (folder / "weights").write_text("newer")
    with writing_folder(folder, is_kept) as partial:
        (partial / "weights").write_text("newest")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {each.name: each.read_text() for each in folder.iterdir()} == {"weights": "newest", "notes.txt": "mine"}


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("old")
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk")
    for text in ("new", "newer"):
        with writing_folder(link) as partial:
            (partial / "weights").write_text(text)
        assert link.is_symlink()
        assert [(path.name, path.read_text()) for path in (tmp_path / "disk").iterdir()] == [("weights", text)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "model"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_that_is_a_disk_of_its_own_is_filled(fails: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path)
    for name in ("old", "notes"):
        (tmp_path / name).write_text(name)
    with (
        pytest.raises(KeyError) if fails else nullcontext(),
        writing_folder(tmp_path, lambda p: p.name == "notes") as partial,
    ):
        (partial / "weights").write_text("new")
        if fails:
            raise KeyError
    left = ["notes", "old"] if fails else ["notes", "weights"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_as_that_and_with_the_path() -> None:
    content = {"weight": torch.zeros(1 << 16)}
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'") as failure:
        save_tensors(content, "/dev/full")
    assert is_disk_full(failure.value)
    with pytest.raises(OSError, match="No space left") as kept:
        Path("/dev/full").write_text("x")
    again = RuntimeError("a thread keeps it, and it is raised again while it is handled")
    again.__cause__, kept.value.__context__ = kept.value, again
    assert is_disk_full(again)
    loop = RuntimeError("another one")
    loop.__cause__, loop.__context__ = None, loop
    assert not is_disk_full(loop)


# ---- commands


@pytest.fixture
def held(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with files of a user: inputs, and files where commands would write."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    (tmp_path / "mine.json").write_text('{"years": "of work"}\n')
    (tmp_path / "a.provenance.json").write_text("IMPORTANT")
    (tmp_path / "pictures").mkdir()
    Figure().savefig(tmp_path / "pictures" / "margins.png")
    shutil.copy(tmp_path / "pictures" / "margins.png", "both.png")
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "validation.jsonl").write_text('{"batch": 0, "kl_sqrt": 0.1, "win_rate": 0.5}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("judge --judge model --pairs pairs.jsonl --json pairs.jsonl", "pairs.jsonl is read by this command"),
        ("judge --judge model --pairs pairs.jsonl --json model/config.json", "model/config.json is read by this"),
        ("judge --judge model --pairs pairs.jsonl --json mine.json", "mine.json exists and is no earlier result"),
        ("judge --judge model --prompts p --responses r --anchors a --json pairs.jsonl", "no earlier result"),
        ("judge --judge model --pairs pairs.jsonl --figures pictures", "pictures/margins.png exists and is no earlier"),
        ("frontier run --output mine", "mine.json exists and is no earlier result"),
        ("frontier run --output both", "both.png exists and is no earlier result"),
        ("estimate --config mine.json --json mine.json", "mine.json is read by this command"),
        ("estimate --config=pairs.jsonl --json mine.json", "mine.json exists and is no earlier result"),
        ("anchors --policy model --prompts pairs.jsonl --samples 1 --output a.jsonl", "a.provenance.json exists"),
        ("convert model model", "the folder model holds something already"),
        ("convert model mine.json", "the folder mine.json holds something already"),
    ],
)
def test_commands_write_over_nothing_that_they_did_not_write(command: str, told: str, held: Path) -> None:
    before = {path: path.read_bytes() for path in held.rglob("*") if path.is_file()}
    name, *args = command.split()
    with pytest.raises(ValueError, match=told):
        COMMANDS[name](args)
    assert {path: path.read_bytes() for path in held.rglob("*") if path.is_file()} == before


def test_an_earlier_picture_is_replaced(tmp_path: Path) -> None:
    from prl.system.outputs import check_file, is_own_picture

    for _ in range(2):
        check_file(tmp_path / "margins.png", "--figures", is_own_picture)
        save_picture(Figure(), tmp_path / "margins.png")
    assert [path.name for path in tmp_path.iterdir()] == ["margins.png"]
