"""Pictures that rows name: what is read, what is refused, and what a batch holds."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prl.data import DataError, DataSource, RecordStream, RowError
from prl.data.image_encoding import CaptionEncoder, ImagePairEncoder, ImagePromptEncoder, image_hash
from prl.data.images import ImageFiles, as_tensor, pixel_hash
from prl.data.rows.image_records import CaptionedImage, ImagePair, ImagePrompt
from prl.data.store import encode_records

PIXELS = np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3)
"""Four pictures of 6 x 5 pixels."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "some.npy", PIXELS)
    np.save(tmp_path / "one.npy", PIXELS[2])
    np.save(tmp_path / "clips.npy", np.stack([PIXELS, PIXELS[::-1]]))
    Image.fromarray(PIXELS[1]).save(tmp_path / "one.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("some.npy#0", PIXELS[0]),
        ("some.npy#3", PIXELS[3]),
        ("one.npy", PIXELS[2]),
        ("one.png", PIXELS[1]),
        ("clips.npy#1", PIXELS[::-1]),
        ("some.npy", PIXELS),  # a clip where a clip is meant
    ],
)
def test_names_lead_to_pixels(folder, name, expected) -> None:
    np.testing.assert_array_equal(ImageFiles(folder).read(name, "image"), expected)


def test_a_tensor_has_channels_first_and_numbers_from_minus_one_to_one() -> None:
    white = np.full((2, 3, 3), 255, np.uint8)
    white[1, 2, 0] = 0
    found = as_tensor(white)
    assert found.shape == (3, 2, 3)
    assert found[0, 1, 2] == -1
    assert found.max() == 1
    assert as_tensor(PIXELS).shape == (3, 4, 6, 5)  # a clip: channels, frames, height, width


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.png", r"found 'missing.png' \(no such file\).*relative to the folder of the rows"),
        ("some.npy#4", r"found 'some.npy#4' \(no such picture\).*from 0 to 3"),
        ("one.txt", r"no picture"),
        ("broken.png", r"damaged picture"),
        ("broken.npy#0", r"damaged picture"),
        ("floats.npy#0", r"an array of float64.*uint8"),
        ("objects.npy#0", r"damaged picture"),
        ("grey.npy#0", r"no picture"),
        ("deep.png", r"mode I;16.*another kind of picture"),
        ("clear.png", r"mode RGBA.*another kind of picture"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_its_row(folder, name, said) -> None:
    (folder / "broken.png").write_bytes((folder / "one.png").read_bytes()[:40])
    (folder / "broken.npy").write_bytes((folder / "some.npy").read_bytes()[:-7])
    np.save(folder / "floats.npy", PIXELS / 255)
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "grey.npy", PIXELS[..., 0])
    (folder / "one.txt").write_text("hello")
    Image.fromarray(np.full((6, 5), 40000, np.uint16)).save(folder / "deep.png")
    Image.fromarray(np.zeros((6, 5, 4), np.uint8)).save(folder / "clear.png")
    files = ImageFiles(folder)
    with pytest.raises(RowError, match=said) as found:
        files.read(name, "image")
    assert found.value.field == "image"


def test_a_copy_for_a_worker_holds_no_pixels(folder) -> None:
    files = ImageFiles(folder)
    files.read("some.npy#0", "image")
    assert len(pickle.dumps(files)) < PIXELS.nbytes
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(files)).read("some.npy#1", "image"), PIXELS[1])


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoded(path: Path, kind: Any, encoder: Any) -> Any:
    declared = encoder.declared
    stream = RecordStream(DataSource(str(path)), kind, "error", declared)
    with encoder.reading(path.parent):
        return encode_records(stream, stream, encoder, cache=False)


def test_pairs_in_any_shape_of_pairs(folder) -> None:
    path = write(
        folder,
        {"prompt": "a dog", "chosen": "some.npy#0", "rejected": "one.png"},
        {"prompt": "a cat", "response_a": "one.npy", "response_b": "some.npy#0", "winner": "b"},
        {"prompt": "a cow", "completions": ["some.npy#0", "some.npy#1", "some.npy#3"], "scores": [3, 1, 2]},
    )
    encoder = ImagePairEncoder((3, 6, 5))
    records = encoded(path, ImagePair, encoder)
    batch = encoder.collate([records.rows[n] for n in range(len(records.rows))])
    assert batch["prompts"] == ["a dog", "a cat", "a cow", "a cow", "a cow"]
    assert batch["targets"].tolist() == [1, 0, 1, 1, 1]
    torch.testing.assert_close(batch["chosen"][0], as_tensor(PIXELS[0]))
    torch.testing.assert_close(batch["rejected"][0], as_tensor(PIXELS[1]))
    assert batch["chosen"].shape == (5, 3, 6, 5)


def test_lists_views_and_numbers(folder) -> None:
    row = {"prompt": "a dog", "chosen": "some.npy#0", "rejected": "some.npy#1", "margin_of": 0.5, "gold": "some.npy#2"}
    path = write(
        folder,
        {**row, "pictures": ["some.npy#0", "some.npy#1"], "phi": [1, 0]},
        {**row, "pictures": ["some.npy#2", "some.npy#1", "some.npy#3"], "phi": [1, 0.5, 0]},
    )
    encoder = ImagePairEncoder((3, 6, 5), ("chosen", "rejected", "gold"), ("margin_of",), (), {"pictures": ("phi",)})
    records = encoded(path, ImagePair, encoder)
    batch = encoder.collate([records.rows[0], records.rows[1]])
    assert batch["count.pictures"].tolist() == [2, 3]
    torch.testing.assert_close(batch["pictures"][3], as_tensor(PIXELS[1]))
    torch.testing.assert_close(batch["gold"][1], as_tensor(PIXELS[2]))
    assert batch["column.phi"].tolist() == [[1, 0, 0], [1, 0.5, 0]]
    assert batch["column.margin_of"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"chosen": "some.npy#0", "rejected": "gone.png"},
            r"row 1, field 'rejected': found 'gone.png' \(no such file\)",
        ),
        (
            {"chosen": "some.npy#0", "rejected": "small.npy#0"},
            r"field 'rejected'.*3x5 pixels.*expected pictures of 6x5",
        ),
        ({"chosen": "some.npy#0", "rejected": "clips.npy#0"}, r"field 'rejected'.*4 frames of 6x5 pixels"),
        ({"chosen": "some.npy#0"}, r"rejected"),
        ({"chosen": "some.npy#0", "rejected": "some.npy#0"}, r"chosen equals rejected"),
    ],
)
def test_bad_pairs_name_file_row_field_and_fix(folder, row, said) -> None:
    np.save(folder / "small.npy", PIXELS[:, :3])
    path = write(folder, {"prompt": "a dog", **row})
    with pytest.raises(DataError, match=said) as found:
        encoded(path, ImagePair, ImagePairEncoder((3, 6, 5)))
    assert "rows.jsonl" in str(found.value)


def test_pictures_with_equal_pixels_are_no_pair(folder) -> None:
    rows = [{"prompt": "a dog", "chosen": "some.npy#2", "rejected": other} for other in ("one.npy", "some.npy#1")]
    records = encoded(write(folder, *rows), ImagePair, ImagePairEncoder((3, 6, 5)))
    assert len(records.rows) == 1
    assert (records.truncations > 0).tolist() == [True, False]


def test_a_picture_that_changes_is_refused_and_changes_the_hash(folder) -> None:
    path = write(folder, {"prompt": "a dog", "chosen": "one.png", "rejected": "some.npy#0"})
    encoder = ImagePairEncoder((3, 6, 5))
    records = encoded(path, ImagePair, encoder)
    before = image_hash(records.rows)
    encoder.collate([records.rows[0]])
    Image.fromarray(PIXELS[3]).save(folder / "one.png")
    with pytest.raises(DataError, match="one.png has changed"):
        encoder.collate([records.rows[0]])
    assert image_hash(encoded(path, ImagePair, encoder).rows) != before
    assert pixel_hash(PIXELS[0]) != pixel_hash(PIXELS[0].reshape(5, 6, 3))


def test_captions_and_prompts(folder) -> None:
    path = write(folder, {"prompt": "a dog", "image": "one.png"}, {"prompt": "", "image": "some.npy#0"})
    with pytest.raises(DataError, match="prompt"):  # an empty prompt is none
        encoded(path, CaptionedImage, CaptionEncoder((3, 6, 5)))
    path = write(folder, {"prompt": "a dog", "image": "one.png"})
    encoder = CaptionEncoder((3, 6, 5))
    batch = encoder.collate([encoded(path, CaptionedImage, encoder).rows[0]])
    torch.testing.assert_close(batch["images"][0], as_tensor(PIXELS[1]))
    several = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    path, only = write(folder, {"prompt": several}), ImagePromptEncoder((3, 6, 5))
    with pytest.raises(DataError, match="several turns"):
        encoded(path, ImagePrompt, only)
