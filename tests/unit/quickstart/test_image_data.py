"""Data files of the image world: equal seeds, columns, and rows that say of their pictures what is true."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prl.quickstart.images import (
    TASTES,
    attributes,
    clip_scores,
    from_uint8,
    parse_prompt,
    taste_of,
    write_captioned,
    write_captioned_clips,
    write_clips,
    write_lists,
    write_pairs,
    write_prompts,
    write_user_pairs,
)
from prl.quickstart.images.data import SIDES
from prl.quickstart.images.scenes import ATTRIBUTES

WRITERS: dict[str, Callable[..., Path]] = {
    "captioned": write_captioned,
    "pairs": write_pairs,
    "lists": write_lists,
    "user_pairs": write_user_pairs,
    "clips": write_clips,
    "captioned_clips": write_captioned_clips,
}
COLUMNS = {
    "captioned": ["prompt", "image"],
    "pairs": ["prompt", "chosen", "rejected"],
    "lists": ["prompt", "images", "scores"],
    "user_pairs": ["prompt", "chosen", "rejected", "user"],
    "clips": ["prompt", "chosen", "rejected", *(f"{side}_preference" for side in SIDES)],
    "captioned_clips": ["prompt", "image"],
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def images_of(folder: Path, references: list[str]) -> Tensor:
    """Read pictures by their references, from one array file."""
    names, indices = zip(*(each.split("#") for each in references), strict=True)
    (name,) = set(names)
    return from_uint8(np.load(folder / name)[[int(index) for index in indices]])


def scores_of(folder: Path, rows: list[dict[str, Any]], column: str) -> Tensor:
    """Sum the right attributes of the pictures of a column: [N], from 0 to 3."""
    found = attributes(images_of(folder, [row[column] for row in rows]), [row["prompt"] for row in rows])
    assert found["clarity"].min() > 0.9
    return found["shape"] + found["colour"] + found["place"]


@pytest.mark.parametrize("kind", WRITERS)
def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path, kind: str) -> None:
    def write(name: str, split: str, seed: int) -> tuple[bytes, bytes]:
        path = WRITERS[kind](tmp_path / name, split, 12, seed)
        assert path == tmp_path / name / f"{kind}.{split}.jsonl"
        assert [list(row) for row in rows_of(path)] == [COLUMNS[kind]] * 12
        return path.read_bytes(), path.with_suffix(".npy").read_bytes()

    first = write("first", "train", 7)
    assert first == write("again", "train", 7)
    for other in (write("other", "train", 8), write("first", "validation", 7)):
        assert first[0] != other[0]
        assert first[1] != other[1]
    assert {path.suffix for path in (tmp_path / "first").iterdir()} == {".npy", ".jsonl"}


def test_every_picture_is_named_once_and_lies_in_its_file(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        rows = rows_of(write(tmp_path, "train", 9, 1))
        named = [row[name] for row in rows for name in ("image", "chosen", "rejected") if name in row]
        named += [name for row in rows for name in row.get("images", ())]
        array = np.load(tmp_path / f"{kind}.train.npy")
        assert sorted(named) == sorted(f"{kind}.train.npy#{at}" for at in range(len(array)))
        assert array.dtype == np.uint8
        assert array.shape[1:] == ((4, 16, 16, 3) if "clips" in kind else (16, 16, 3))


def test_splits_share_prompts_but_no_pictures(tmp_path: Path) -> None:
    prompts, arrays = [], []
    for split in ("train", "validation"):
        path = write_captioned(tmp_path, split, 600, 0)
        prompts.append({row["prompt"] for row in rows_of(path)})
        arrays.append({picture.tobytes() for picture in np.load(path.with_suffix(".npy"))})
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 60
    assert len(arrays[0]) == len(arrays[1]) == 600
    assert not arrays[0] & arrays[1]


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_captions_are_wrong_as_often_as_asked(tmp_path: Path, wrong: float) -> None:
    rows = rows_of(write_captioned(tmp_path, "train", 300, 3, wrong=wrong))
    found = scores_of(tmp_path, rows, "image")
    assert set(found.tolist()) <= {2.0, 3.0}
    assert (found == 2).double().mean().item() == pytest.approx(wrong, abs=0.08 if 0 < wrong < 1 else 0)


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_the_right_picture_is_chosen_but_for_flips(tmp_path: Path, flip: float) -> None:
    rows = rows_of(write_pairs(tmp_path, "train", 200, 3, flip=flip))
    chosen, rejected = (scores_of(tmp_path, rows, column) for column in ("chosen", "rejected"))
    assert set((chosen + rejected).tolist()) == {5.0}
    assert (chosen < rejected).double().mean().item() == pytest.approx(flip, abs=0.1 if 0 < flip < 1 else 0)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_lists_are_scored_by_what_is_seen(tmp_path: Path, k: int) -> None:
    rows = rows_of(write_lists(tmp_path, "train", 30, 5, k=k))
    for row in rows:
        found = attributes(images_of(tmp_path, row["images"]), [row["prompt"]] * k)
        torch.testing.assert_close(torch.stack([found[name] for name in ATTRIBUTES], 1).tolist(), row["scores"])
        assert sorted(3 - sum(scores) for scores in row["scores"]) == sorted(at % 4 for at in range(k))
    if k == 4:
        firsts = [3 - sum(row["scores"][0]) for row in rows]
        assert set(firsts) == {0, 1, 2, 3}, "the order of a list tells its scores"


def test_prompts(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, "validation", ["a red circle on the left", "a red circle moving up"])
    assert path.name == "prompts.validation.jsonl"
    assert rows_of(path) == [{"prompt": "a red circle on the left"}, {"prompt": "a red circle moving up"}]
    assert list(tmp_path.iterdir()) == [path]


def test_users_choose_by_their_tastes(tmp_path: Path) -> None:
    rows = rows_of(write_user_pairs(tmp_path, "train", 200, 11))
    for column in ("chosen", "rejected"):
        assert (scores_of(tmp_path, rows, column) == 3).all()
    for user in TASTES:
        own = [row for row in rows if row["user"] == user]
        assert len(own) > 30
        chosen, rejected = (
            taste_of(user).score(images_of(tmp_path, [row[column] for row in own])) for column in ("chosen", "rejected")
        )
        assert (chosen > rejected).all()
    firsts = [int(row["chosen"].split("#")[1]) % 2 for row in rows]
    assert 60 < sum(firsts) < 140


def test_clips_are_labelled_by_what_is_seen(tmp_path: Path) -> None:
    rows = rows_of(write_clips(tmp_path, "train", 100, 2))
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (
        clip_scores(images_of(tmp_path, [row[column] for row in rows]), prompts) for column in ("chosen", "rejected")
    )
    for side in SIDES:
        labels = torch.tensor([row[f"{side}_preference"] for row in rows])
        assert labels.unique().tolist() == [0, 0.5, 1]
        gaps = chosen[side] - rejected[side]
        assert (gaps[labels == 1] > 0.2).all()
        assert (gaps[labels == 0] < -0.2).all()
        assert (gaps[labels == 0.5].abs() < 0.2).all()
    assert all(sum(row[f"{side}_preference"] for side in SIDES) > 1.5 for row in rows)


def test_captions_of_clips_are_wrong_at_a_rate(tmp_path: Path) -> None:
    for rate in (0.0, 0.3):
        rows = rows_of(write_captioned_clips(tmp_path, "train", 200, 2, flaw_rate=rate))
        scores = clip_scores(images_of(tmp_path, [row["image"] for row in rows]), [row["prompt"] for row in rows])
        for side in SIDES:
            flawed = float((scores[side] < 0.8).double().mean())
            assert abs(flawed - rate) <= (0.1 if rate else 0)


@pytest.mark.parametrize(
    ("write", "arguments", "words"),
    [
        (write_captioned, ("test", 1, 0), "split is 'test'; expected one of train, validation"),
        (write_prompts, ("test", ["a"]), "split is 'test'"),
        (write_pairs, ("train", 0, 0), "count is 0; expected at least 1"),
        (write_captioned, ("train", 1, 0, 1.5), "wrong is 1.5; expected a share from 0 to 1"),
        (write_pairs, ("train", 1, 0, float("nan")), "flip is nan"),
        (write_lists, ("train", 1, 0, 1), "k is 1; expected at least 2 pictures"),
        (write_clips, ("train", 1, 0, 1), "frames is 1"),
        (write_prompts, ("train", []), "no prompts"),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, write, arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write(tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_lists_name_a_prompt_that_can_be_read(tmp_path: Path) -> None:
    for row in rows_of(write_lists(tmp_path, "validation", 5, 0)):
        assert parse_prompt(row["prompt"]).prompt == row["prompt"]
