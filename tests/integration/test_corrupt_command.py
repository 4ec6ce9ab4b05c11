"""`prl corrupt`: preference rows with what SPO reads, which then trains with any other objective inside."""

import json
from pathlib import Path

import pytest
import torch

from prl.checkpoints.files import LAST
from prl.cli.entry import main
from prl.config import ModelSource
from prl.models.loading import load_causal_lm
from tests.integration.runs import CONFIGS, Home, Numbers, callback, find_callback, last_checkpoint

MODEL = "--model.init_args."


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(["corrupt", *arguments])
    return capsys.readouterr().err


def test_rows_are_the_pairs_with_corrupted_responses_and_train_any_objective(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pairs = home.data("pairs.train")
    words = tmp_path / "words.txt"
    words.write_text("x\n")
    for name in ("a", "b"):
        main(
            [
                "corrupt",
                str(pairs),
                "--output",
                str(tmp_path / f"{name}.jsonl"),
                "--levels",
                "3",
                "--stop_words",
                str(words),
            ]
        )
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    made, given = rows(tmp_path / "a.jsonl"), rows(pairs)
    assert f"wrote {len(given)} pairs to {tmp_path / 'a.jsonl'}" in capsys.readouterr().out
    for row, pair in zip(made, given, strict=True):
        assert (row["chosen"], row["rejected"]) == (pair["chosen"].strip(), pair["rejected"].strip())
        for side in ("chosen", "rejected"):
            assert (row[f"corrupted_{side}"] == row[side]) == (row[f"level_{side}"] == 0)
    inner = json.dumps({"class_path": "SPO", "init_args": {"objective": {"class_path": "SimPO"}, "levels": 3}})
    splits = [f"--data.init_args.{split}.path={tmp_path / 'a.jsonl'}" for split in ("train", "validation")]
    cli = home.run("preference", tmp_path / "run", f"{MODEL}objective", inner, *splits, callback(Numbers))
    assert cli.model.reference is None
    first = find_callback(cli.trainer, Numbers).training[0]["train/loss"]
    plain = home.run("preference", tmp_path / "plain", f"{MODEL}objective", "SimPO", *splits, callback(Numbers))
    alone = find_callback(plain.trainer, Numbers).training[0]["train/loss"]
    assert first == pytest.approx(alone + 0.1 * 2 * torch.tensor(3.0).log().item(), abs=1e-5)
    assert {name for name in last_checkpoint(tmp_path / "run")["state_dict"] if name.startswith("heads")} == {
        "heads.degree.weight",
        "heads.degree.bias",
    }
    checkpoint = str(tmp_path / "run" / "checkpoints" / LAST)
    main(["export", "--checkpoint", checkpoint, "--output", str(tmp_path / "exported")])
    trained = load_causal_lm(ModelSource(path=str(tmp_path / "exported"))).state_dict()
    assert all(torch.equal(trained[name], each) for name, each in cli.model.model.state_dict().items())


def test_mistakes_are_told_before_anything_is_written(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pairs, output = str(home.data("pairs.train")), str(tmp_path / "out.jsonl")
    assert "expected a name that ends in .jsonl" in told(capsys, pairs, "--output", str(tmp_path / "out.csv"))
    assert "--levels 1 leaves nothing to tell" in told(capsys, pairs, "--output", output, "--levels", "1")
    assert "choose another name" in told(capsys, pairs, "--output", pairs)
    missing = str(tmp_path / "none.txt")
    assert "--stop_words" in told(capsys, pairs, "--output", output, "--stop_words", missing)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "a", "chosen": "b c", "rejected": "c", "level_chosen": 1}) + "\n")
    assert "row 1 has a column 'level_chosen' already" in told(capsys, str(bad), "--output", output)
    bad.write_text(json.dumps({"prompt": "a", "chosen": "b c"}) + "\n")
    assert "bad.jsonl" in (error := told(capsys, str(bad), "--output", output))
    assert "--on_invalid" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_the_config_has_the_levels_of_the_command() -> None:
    assert "levels: 4" in (CONFIGS / "methods" / "spo.yaml").read_text()
