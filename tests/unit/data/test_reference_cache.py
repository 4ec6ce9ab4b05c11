"""Numbers of tokens on disk: the bits come back in their places, damage is noticed, nothing is left half written."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prl.data.reference_cache import LENGTHS, REPORT, VALUES, ReferenceWriter, load_reference
from tests.helpers.records import ragged_mask

LONG = [[3, 1], [2, 5], [1, 1]]
"""Tokens of two responses of each of three rows."""


def rows() -> list[list[np.ndarray]]:
    generator = np.random.default_rng(0)
    return [[-generator.random(length, np.float32) for length in lengths] for lengths in LONG]


def write_all(writer: ReferenceWriter, responses: Iterable[list[np.ndarray]]) -> None:
    with writer:
        writer.add(responses)


def written(folder: Path) -> list[list[np.ndarray]]:
    found = rows()
    with ReferenceWriter(folder) as writer:
        writer.add(found[:2])
        writer.add(found[2:])
    return found


def test_rows_come_back_in_any_order_behind_the_views(tmp_path: Path) -> None:
    expected = written(tmp_path / "key")
    cache = load_reference(tmp_path / "key")
    assert cache is not None
    mask = ragged_mask([1, 3, 1, 1], width=6)  # chosen of the rows 2 and 0, then their rejected responses
    found = cache.of(torch.tensor([2, 0]), torch.tensor([0, 1, 0, 1]), mask)
    assert found.dtype == torch.float32
    for number, (row, view) in enumerate([(2, 0), (0, 0), (2, 1), (0, 1)]):
        assert found[number][mask[number]].tolist() == expected[row][view].tolist()
    assert not found[~mask].any()
    assert isinstance(cache.values, np.memmap)


def test_rows_may_have_different_numbers_of_responses(tmp_path: Path) -> None:
    with ReferenceWriter(tmp_path / "key") as writer:
        writer.add([rows()[0], [*rows()[1], *rows()[2]]])
    cache = load_reference(tmp_path / "key")
    assert cache is not None
    pairs = [1, 0, 1, 0, 0, 0]  # two responses of row 0, and four of row 1
    mask = ragged_mask([3, 2, 1, 5, 1, 1])
    found = cache.of(torch.tensor([1, 0]), torch.tensor(pairs), mask)
    expected = [rows()[0][0], rows()[1][0], rows()[0][1], rows()[1][1], *rows()[2]]
    assert [each[where].tolist() for each, where in zip(found, mask, strict=True)] == [
        each.tolist() for each in expected
    ]
    with pytest.raises(ValueError, match="responses of other lengths"):
        cache.of(torch.tensor([0]), torch.tensor([0] * 5), ragged_mask([3, 1, 1, 1, 1]))


def test_responses_of_another_length_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "key")
    cache = load_reference(tmp_path / "key")
    assert cache is not None
    with pytest.raises(ValueError, match="responses of other lengths; remove the folder"):
        cache.of(torch.tensor([0]), torch.tensor([0, 0]), ragged_mask([3, 2]))


@pytest.mark.parametrize("file", [VALUES, LENGTHS, REPORT])
def test_one_changed_byte_is_noticed(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "key"
    written(place)
    content = bytearray((place / file).read_bytes())
    content[-3] ^= 1
    (place / file).write_bytes(content)
    assert load_reference(place) is None
    assert f"the cache in {place} is damaged" in caplog.text
    written(place)  # puts a good one in its place
    assert load_reference(place) is not None


def test_what_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[list[np.ndarray]]:
        yield rows()[0]
        raise OSError("no space left")

    writer = ReferenceWriter(tmp_path / "key")
    with pytest.raises(OSError, match="no space left"):
        write_all(writer, broken())
    assert load_reference(tmp_path / "key") is None
    assert not list(tmp_path.iterdir())


def test_a_good_folder_of_another_process_stays(tmp_path: Path) -> None:
    place = tmp_path / "key"
    with ReferenceWriter(place) as late:
        late.add(rows())
        written(place)
        before = (place / VALUES).stat().st_ino
    assert (place / VALUES).stat().st_ino == before
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["key"]
