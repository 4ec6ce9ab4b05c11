"""`prl quickstart --world images`, made short: all stages, the report, the grid of pictures, and what it replaces."""

import json

import pytest
from PIL import Image

from prl.cli.commands import COMMANDS, quickstart_images
from prl.data import RecordStream
from prl.data.rows.image_records import CaptionedImage, ImagePair
from prl.data.rows.sources import DataSource
from prl.quickstart.images import own_pairs
from prl.system.outputs import OutputError
from tests.integration.runs import CONFIGS

pytest.importorskip("diffusers")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("CAPTIONED", 130), ("REFERENCES", 1), ("ROUNDS", 2), ("RENDERED", 70)):
        monkeypatch.setattr(quickstart_images, name, number)
    # Pictures after three steps are noise, of which the check finds none better than another.
    monkeypatch.setattr(own_pairs, "gold", lambda images, prompts: images.flatten(1).mean(1).double())
    fit = ("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--trainer.enable_progress_bar", "false")
    few = ("--model.init_args.measured", "6", "--model.init_args.shown", "4")
    policy = ("--model.init_args.iterations", "1", "--trainer.val_check_interval", "1", *few)
    lengths = {"base": fit + few, "preference": fit + few, "reward": fit, "policy": policy}
    monkeypatch.setattr(quickstart_images, "LENGTHS", lengths)


@pytest.mark.slow
def test_all_stages_and_the_report(short, tmp_path, capsys) -> None:
    out = tmp_path / "images"
    command = ["--world", "images", "--out", str(out), "--configs", str(CONFIGS / "images")]
    COMMANDS["quickstart"](command)
    report = json.loads((out / "report.json").read_text())
    assert list(report["gold"]) == ["base", "Diffusion-DPO", "then Pref-GRPO"]
    assert all(0 <= of["low"] <= of["gold"] <= of["high"] <= 1 for of in report["gold"].values())
    with Image.open(out / "pictures.png") as picture:
        assert picture.width > 2 * picture.height
    rows = {"pairs/pairs.train": ImagePair, "pairs/judge.train": ImagePair, "pairs/scored.train": CaptionedImage}
    for name, kind in {**rows, "pairs/users.train": ImagePair, "world/references": CaptionedImage}.items():
        assert len(list(RecordStream(DataSource(str(out / f"{name}.jsonl")), kind))) > 50
    before = (out / "report.json").read_text()
    COMMANDS["quickstart"]([*command, "--only", "report"])
    assert json.loads((out / "report.json").read_text())["gold"] == json.loads(before)["gold"]
    (out / "base" / "my_notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="my_notes.txt"):
        COMMANDS["quickstart"](command)


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "precious.npy").write_text("x")
    with pytest.raises(OutputError, match="would be replaced"):
        COMMANDS["quickstart"](["--world", "images", "--out", str(tmp_path), "--configs", str(CONFIGS / "images")])
    assert (tmp_path / "pairs" / "precious.npy").exists()
