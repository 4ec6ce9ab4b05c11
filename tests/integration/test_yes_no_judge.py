"""A judge of pictures that answers Yes or No, trained through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prl.cli.app import run_stage
from prl.data import DataError
from prl.diffusion.rewards import ConsistencyReward
from tests.helpers.pictures import ANSWERS, PROMPTS, write_pictures, write_vision_language
from tests.integration.runs import CONFIGS, differences, last_checkpoint
from tests.integration.test_tensorboard import events, scalars

MODEL = "--model.init_args."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judges")
    write_pictures(folder / "data")
    np.save(folder / "data" / "clips.npy", np.zeros((2, 3, 8, 8, 3), np.uint8))
    write_vision_language(folder / "model")
    for split, count in (("train", 24), ("validation", 8)):
        rows = [
            {
                "prompt": PROMPTS[n % 4],
                "images": [f"pictures.npy#{n}", f"pictures.npy#{n + 1}"],
                "answer": ANSWERS[n % 4],
            }
            for n in range(count)
        ]
        write_rows(folder / "data" / f"questions.{split}.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(home: Path, run: Path, *overrides: str) -> list[str]:
    args = ["fit", "--config", str(CONFIGS / "images" / "consistency.yaml"), "--run_dir", str(run)]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(home / "data" / f"questions.{split}.jsonl")]
    args += ["--data.init_args.batch_size", "4", "--data.init_args.validation_batch_size", "5"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--trainer.max_steps", "4"]
    args += ["--trainer.val_check_interval", "2", "--checkpoint.every_n_batches", "2"]
    return [*args, f"{MODEL}optimization.warmup", "0", f"{MODEL}model.path", str(home / "model"), *overrides]


LORA = json.dumps({"rank": 2, "target_modules": ["q_proj", "v_proj"]})


@pytest.mark.parametrize("lora", ["null", pytest.param(LORA, marks=pytest.mark.slow)])
def test_a_cut_run_ends_like_a_whole_one_and_its_folder_judges(lora, home, tmp_path) -> None:
    own = (f"{MODEL}model.lora", lora, f"{MODEL}question", "the same {prompt} ?")
    cli = run_stage(arguments(home, tmp_path / "whole", *own))
    halfway = tmp_path / "whole" / "checkpoints" / "batch-000002.ckpt"
    run_stage(arguments(home, tmp_path / "cut", *own, "--ckpt_path", str(halfway)))
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []
    found = scalars(events(tmp_path / "whole"))
    assert [step for step, _ in found["val/accuracy"]] == [1, 3]
    reward = ConsistencyReward(str(tmp_path / "whole" / "model"), rows=1)
    assert reward.question == "the same {prompt} ?"
    images = torch.randint(0, 256, (2, 3, 8, 16), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    pairs = [tuple(image.chunk(2, -1)) for image in images]
    expected = cli.model.asking.log_odds(pairs, ["the same a red circle ?", "the same a blue square ?"]).sigmoid()
    torch.testing.assert_close(reward.score(images, ["a red circle", "a blue square"]), expected, atol=1e-5, rtol=1e-4)


def test_predictions_are_probabilities_of_yes(home, tmp_path) -> None:
    run_stage(arguments(home, tmp_path))
    run_stage(["predict", *arguments(home, tmp_path, "--ckpt_path", "last")[1:]])
    (file,) = tmp_path.rglob("predictions*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 8
    assert all(0 < row["yes"] < 1 for row in rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"answer": "Maybe"},
            r"row 1, field 'answer': found 'Maybe' .no verdict.; expected a text that begins with Yes or",
        ),
        ({"answer": "Nothing here"}, "field 'answer'"),
        ({"images": "pictures.npy#0"}, "field 'images'.*expected a list of one picture at least"),
        ({"images": ["clips.npy#0"]}, r"field 'images\[0\]': found 'clips.npy#0' .a clip."),
        ({"images": ["pictures.npy#0", "gone.png"]}, r"field 'images\[1\]'.*no such file"),
    ],
)
def test_a_row_that_cannot_be_learnt_from_is_named(change, said, home, tmp_path) -> None:
    (row, *_) = [json.loads(line) for line in (home / "data/questions.train.jsonl").read_text().splitlines()]
    path = home / "data" / "broken.jsonl"
    write_rows(path, [row | change])
    with pytest.raises((DataError, SystemExit), match=said):
        run_stage(arguments(home, tmp_path, "--data.init_args.train.path", str(path)))


def test_settings_that_teach_nothing_are_refused(home, tmp_path) -> None:
    with pytest.raises((ValueError, SystemExit), match="alpha is 0.0; expected above 0"):
        run_stage(arguments(home, tmp_path, f"{MODEL}alpha", "0"))
    with pytest.raises((ValueError, SystemExit), match="question is empty"):
        run_stage(arguments(home, tmp_path, f"{MODEL}question", " "))
