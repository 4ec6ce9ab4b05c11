"""`prl data` on rows that name pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from prl.cli.commands import data
from tests.helpers.pictures import write_pictures


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Four pairs: in three the chosen picture is brighter; the last is one picture under two names."""
    pixels = np.zeros((6, 6, 8, 3), np.uint8)
    pixels[:] = np.array([50, 100, 150, 200, 10, 200], np.uint8)[:, None, None, None]
    np.save(tmp_path / "p.npy", pixels)
    pairs = [(1, 0), (2, 1), (3, 4), (0, 2), (3, 5)]
    lines = [{"prompt": "a", "chosen": f"p.npy#{winner}", "rejected": f"p.npy#{loser}"} for winner, loser in pairs]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def described(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    data.main([*args, "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_picture_is_opened_and_simple_rules_are_tried(rows, capsys) -> None:
    found = described(capsys, str(rows), "--kind", "image_pairs")
    assert found["sizes"] == {"6x8, 3 channels": 10}
    assert (found["num_pictures"], found["num_identical"], found["num_prompts"]) == (5, 1, 1)
    brighter = found["baselines"]["the brighter wins"]  # type: ignore[index]
    assert (brighter["accuracy"], brighter["num_pairs"]) == (0.75, 4)  # one picture twice leads nowhere
    assert "more contrast wins" not in found["baselines"]  # type: ignore[operator]
    data.main([str(rows), "--kind", "image_pairs"])
    shown = capsys.readouterr().out
    assert "size            6x8, 3 channels: 10" in shown
    assert "1 pairs of one picture, which training leaves out" in shown


def test_a_row_whose_picture_is_gone_is_left_out_and_named(rows, capsys) -> None:
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "a", "chosen": "p.npy#9", "rejected": "p.npy#0"}) + "\n")
    found = described(capsys, str(rows), "--kind", "image_pairs")
    assert found["report"]["skipped"] == {"no such picture": [6]}  # type: ignore[index]
    assert found["sizes"] == {"6x8, 3 channels": 10}


def test_captions_and_clips(tmp_path, capsys) -> None:
    write_pictures(tmp_path, frames=3)
    found = described(capsys, str(tmp_path / "captioned.train.jsonl"), "--kind", "captions")
    assert found["sizes"] == {"3 frames of 8x8, 3 channels": 24}
    assert "baselines" not in found


def test_pairs_of_texts_that_name_pictures_get_a_hint(rows, capsys) -> None:
    data.main([str(rows)])
    assert "responses name pictures; --kind image_pairs opens them" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        data.main([str(rows), "--kind", "captions", "--tokenizer", "x"])
    assert "--tokenizer is of texts; leave it out with --kind captions" in capsys.readouterr().err
