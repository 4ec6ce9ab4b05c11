"""However a run dies, the newest whole checkpoint is found, and what is wrong with a newer one is said."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prl.checkpoints import files as checkpoint_files
from prl.checkpoints.files import (
    LAST,
    CheckpointError,
    find_corruption,
    latest_valid,
    manifest_of,
    partial_path,
    prune,
    publish,
)


def write(folder: Path, batches: int, *, shards: bool = False) -> Path:
    partial = partial_path(folder, batches)
    folder.mkdir(parents=True, exist_ok=True)
    if shards:
        (partial / "state").mkdir(parents=True)
        for name in ("state/0.distcp", "state/1.distcp", "metadata"):
            torch.save({"batches": batches, "name": name}, partial / name)
    else:
        torch.save({"batches": batches}, partial)
    return partial


def save(folder: Path, batches: int, keep: int = 2, *, shards: bool = False) -> Path:
    path = publish(write(folder, batches, shards=shards), world_size=1)
    prune(folder, batches, keep)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shards", [False, True])
def test_the_newest_are_kept_and_last_points_at_the_newest(shards: bool, tmp_path: Path) -> None:
    for batches in (2, 4, 6):
        save(tmp_path, batches, shards=shards)
    kept = ["batch-000004.ckpt", "batch-000004.json", "batch-000006.ckpt", "batch-000006.json", LAST]
    assert names(tmp_path) == kept
    assert (tmp_path / LAST).resolve() == latest_valid(tmp_path).resolve() == (tmp_path / "batch-000006.ckpt").resolve()
    summary = checkpoint_files.summary(tmp_path / LAST)
    assert (summary["batches"], summary["world_size"], len(summary["files"])) == (6, 1, 3 if shards else 1)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_manifest(path: Path) -> None:
    manifest_of(path).unlink()


def with_half_a_manifest(path: Path) -> None:
    manifest_of(path).write_text(manifest_of(path).read_text()[:20])


def with_the_manifest_of_another(path: Path) -> None:
    flipped(path)
    shutil.copy(manifest_of(path.with_name("batch-000002.ckpt")), manifest_of(path))


def with_a_manifest_of_another_file(path: Path) -> None:
    flipped(path)
    another = manifest_of(path.with_name("batch-000002.ckpt")).read_text()
    manifest_of(path).write_text(another.replace('"batches": 2', '"batches": 4'))


def with_a_manifest_of_nothing(path: Path) -> None:
    flipped(path)
    manifest_of(path).write_text('{"batches": 4, "world_size": 1, "prl": "0", "files": {}}')


def with_a_folder_as_manifest(path: Path) -> None:
    manifest_of(path).unlink()
    manifest_of(path).mkdir()


def gone(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "bytes, its manifest says"),
        (emptied, "has 0 bytes"),
        (flipped, "other bytes than its manifest says"),
        (without_manifest, "no manifest batch-000004.json"),
        (with_half_a_manifest, "batch-000004.json cannot be read"),
        (gone, "batch-000004.ckpt is missing"),
        (with_the_manifest_of_another, "batch-000004.json is that of the checkpoint after 2 batches"),
        (with_a_manifest_of_another_file, "batch-000004.json speaks of another file, batch-000002.ckpt"),
        (with_a_manifest_of_nothing, "batch-000004.ckpt is missing in its manifest batch-000004.json"),
        (with_a_folder_as_manifest, "no manifest batch-000004.json"),
    ],
)
def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(
    damage: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path, 2), save(tmp_path, 4)
    damage(newer)
    assert latest_valid(tmp_path) == older
    assert f"checkpoint {newer} is torn" in caplog.text
    assert said in caplog.text
    assert f"continuing from {older}" in caplog.text
    assert said in str(find_corruption(newer))
    emptied(older)
    with pytest.raises(CheckpointError, match=f"no whole checkpoint.*{said}.*batch-000002.ckpt has 0 bytes"):
        latest_valid(tmp_path)


@pytest.mark.parametrize(
    "manifest",
    [
        *("[]", "null", "[" * 100_000, '{"batches": 4}', '{"batches": 4, "files": []}'),
        *('{"batches": 4, "files": null}', '{"files": {}}', '{"batches": 4, "files": {"batch-000004.ckpt": {}}}'),
        *(f'{{"batches": 4, "files": {{"batch-000004.ckpt": {value}}}}}' for value in ("null", '"x"')),
        '{"batches": 4, "files": {"' + "a" * 5000 + '": {"size": 1, "sha256": "x"}}}',
        "\udcff",
    ],
    ids=lambda text: text[:40],
)
def test_a_manifest_of_any_other_shape_leaves_the_checkpoint_before(manifest: str, tmp_path: Path) -> None:
    older, newer = save(tmp_path, 2), save(tmp_path, 4)
    manifest_of(newer).write_bytes(manifest.encode(errors="surrogateescape"))
    assert "its manifest" in str(find_corruption(newer))
    assert latest_valid(tmp_path) == older
    save(tmp_path, 6)
    assert "batch-000004.ckpt" in names(tmp_path)  # what has a manifest is only taken away in its turn
    save(tmp_path, 8)
    assert "batch-000004.ckpt" not in names(tmp_path)


@pytest.mark.parametrize("shards", [False, True])
def test_a_checkpoint_may_be_a_link_to_where_there_is_room(shards: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "run", 2, shards=shards)
    room = tmp_path / "room" / ("shards" if shards else "file.ckpt")
    room.parent.mkdir()
    path.rename(room)
    path.symlink_to(room)
    assert latest_valid(tmp_path / "run") == path
    assert checkpoint_files.summary(path)["batches"] == checkpoint_files.batches_of(path) == 2
    moved = room / "metadata" if shards else room
    flipped(moved)
    for named in (path, path.with_name(LAST)):
        assert "other bytes than its manifest says" in str(find_corruption(named))
    save(tmp_path / "run", 4, keep=1)
    assert "batch-000002.ckpt" not in names(tmp_path / "run")
    assert moved.exists()  # only the link was the run's


def test_a_shard_that_is_missing_or_changed_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 2, shards=True)
    flipped(path / "state" / "1.distcp")
    assert "batch-000002.ckpt/state/1.distcp has the right size" in str(find_corruption(path))
    (path / "state" / "2.distcp").touch()
    assert "batch-000002.ckpt/state/2.distcp is missing in its manifest" in str(find_corruption(path))
    (path / "state" / "1.distcp").unlink()
    assert "batch-000002.ckpt/state/1.distcp is missing" in str(find_corruption(path))


class Killed(RuntimeError):
    pass


STEPS = ("fsync", "unlink", "rename", "replace", "symlink")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps there are until the process is killed."""
    allowed = [10**6]

    def counted(function: Callable) -> Callable:
        def step(*args, **kwargs):
            allowed[0] -= 1
            if allowed[0] < 0:
                raise Killed
            return function(*args, **kwargs)

        return step

    for name in STEPS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return allowed


@pytest.mark.parametrize("again", [False, True], ids=["next", "same_batch_again"])
def test_killed_between_any_two_steps_the_newest_named_is_whole(
    again: bool, tmp_path: Path, allowed: list[int]
) -> None:
    """`again`: a run that turned back writes a batch that has a checkpoint already."""
    for num_steps in range(100):
        folder = tmp_path / str(num_steps)
        save(folder, 2)
        if again:
            save(folder, 4)
        write(folder, 4)
        allowed[0] = num_steps
        try:
            save_again = publish(partial_path(folder, 4), world_size=1)
            prune(folder, 4, 2)
            finished = True
        except Killed:
            finished = False
        allowed[0] = 10**6
        found = latest_valid(folder)
        assert torch.load(found, weights_only=True) == {"batches": checkpoint_files.batches_of(found)}
        # A run that goes on from there points at it even if it has nothing more to save, and tidies up.
        checkpoint_files.finish_move(folder, found)
        assert (folder / LAST).resolve() == found.resolve()
        assert "last.link" not in names(folder)
        save(folder, checkpoint_files.batches_of(found) + 2)
        assert len(names(folder)) == 5
        if finished:
            assert found == save_again
            break
    assert finished
    assert num_steps > 6


def test_killed_at_the_first_checkpoint_a_run_has_it_or_may_start_anew(tmp_path: Path, allowed: list[int]) -> None:
    found = []
    for num_steps in range(100):
        folder = tmp_path / str(num_steps)
        write(folder, 2)
        allowed[0] = num_steps
        try:
            publish(partial_path(folder, 2), world_size=1)
        except Killed:
            pass
        else:
            break
        finally:
            allowed[0] = 10**6
        found.append(checkpoint_files.holds_checkpoints(folder))
        if found[-1]:
            assert latest_valid(folder).name == "batch-000002.ckpt"
        else:
            assert checkpoint_files.was_cut_off(folder)
            checkpoint_files.clear(folder)  # as a run that starts from the beginning does
            assert names(folder) == []
    assert found == sorted(found)
    assert set(found) == {False, True}


def test_a_run_that_turned_back_forgets_the_future_it_left(tmp_path: Path) -> None:
    for batches in (2, 4, 6):
        save(tmp_path, batches, keep=3)
    save(tmp_path, 3, keep=3)
    assert latest_valid(tmp_path).name == "batch-000003.ckpt"
    assert [name for name in names(tmp_path) if name.endswith(".ckpt")] == [
        *("batch-000002.ckpt", "batch-000003.ckpt", LAST)
    ]


def test_a_copy_under_another_name_is_looked_at_from_outside(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "best.ckpt"
    copy.parent.mkdir()
    shutil.copy(save(tmp_path / "run", 2), copy)
    assert find_corruption(copy) is None
    truncated(copy)
    assert "do not end like a checkpoint" in str(find_corruption(copy))


def test_a_lone_copy_of_last_is_not_guessed_at(tmp_path: Path) -> None:
    shutil.copy(save(tmp_path / "run", 2), tmp_path / LAST)
    with pytest.raises(CheckpointError, match="give its path"):
        latest_valid(tmp_path)


def test_without_links_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr(os, "symlink", refused)
    path = save(tmp_path, 2)
    assert latest_valid(tmp_path) == path
    assert "links are not supported here" in caplog.text
