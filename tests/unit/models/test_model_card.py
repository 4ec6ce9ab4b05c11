"""The model card: what it tells of where a model comes from, and that nobody's edits are lost."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from prl.config import ModelSource
from prl.judge import BradleyTerryJudge
from prl.judge.passport import write_passport
from prl.models.loading import load_tokenizer
from prl.models.model_card import CARD, is_data_set, renew_figures, write_card
from prl.rewards.folder import PASSPORT_FILE
from tests.unit.judge.test_passport import write_scalar


def settings(path: str | None = "someone/base", train: str = "someone/pairs", **model: Any) -> dict[str, Any]:
    return {
        "model": {"class_path": "lightning_modules.bradley_terry.BradleyTerryRewardModule", "init_args": model}
        if model
        else {"class_path": "GenerativeRewardModule", "init_args": {"model": {"path": path}}},
        "data": {"init_args": {"train": {"path": train}, "validation": None, "batch_size": 8}},
    }


def figure(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "num": 9}


PASSPORT = {
    "format": 1,
    "judge": {},
    "data": {"file": "held_out.jsonl"},
    "report": {"num_pairs": 60, "num_prompts": 30, "accuracy": figure(0.8125), "ece": 0.0625, "flip_rate": None},
}


def card(folder: Path) -> Any:
    return ModelCard.load(folder / CARD).data


@pytest.mark.parametrize(
    ("kind", "pipeline", "auto_class", "judge"),
    [
        ("generative", "text-generation", "AutoModelForCausalLM", True),
        ("bradley_terry", "text-classification", "AutoModelForSequenceClassification", True),
        (None, "text-generation", "AutoModelForCausalLM", False),
    ],
)
def test_metadata_for_the_hub(kind: Any, pipeline: str, auto_class: str, judge: bool, tmp_path: Path) -> None:
    write_card(tmp_path, kind, settings())
    data, text = card(tmp_path), (tmp_path / CARD).read_text()
    assert (data.library_name, data.base_model, data.datasets) == ("transformers", "someone/base", ["someone/pairs"])
    assert data.pipeline_tag == pipeline
    assert data.tags == ["prl", "pairwise-rl", *(["reward-model"] if judge else [])]
    assert data.license is None  # the user's to choose
    assert f"{auto_class}.from_pretrained" in text
    assert ("Judge.from_pretrained" in text) is judge


@pytest.mark.parametrize("head_weights", [(1.0,), (0.5, -2.0)])
def test_the_input_that_the_card_of_a_scalar_reward_describes_gives_its_rewards(
    head_weights: tuple[float, ...], tmp_path: Path
) -> None:
    """The lines of the card, run as they stand, against the judge itself."""
    folder = write_scalar(tmp_path / "judge", head_weights)
    write_card(folder, "bradley_terry", settings())
    _, plain, line_by_line = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    told = {
        "FOLDER": str(folder),
        "prompt": [{"role": "user", "content": "copy abc"}],
        "response": " abc\n",
        "torch": torch,
    }
    exec(plain + line_by_line, told)
    judge = BradleyTerryJudge(str(folder))
    judge.load()
    assert told["reward"].item() == pytest.approx(judge.rewards([told["prompt"]], ["abc"]).item(), abs=1e-6)


def test_the_card_says_what_a_chat_template_is_told(tmp_path: Path) -> None:
    folder = write_scalar(tmp_path / "judge")
    tokenizer = load_tokenizer(ModelSource(path=str(folder), chat_template_kwargs={"enable_thinking": False}))
    tokenizer.save_pretrained(folder)
    write_card(folder, "bradley_terry", settings())
    assert "told `enable_thinking=False` beside the messages, and the date 2024-07-26" in (folder / CARD).read_text()


def test_files_are_named_and_their_folders_are_not(tmp_path: Path) -> None:
    data = tmp_path / "secret" / "pairs.\n# train.jsonl"
    write_card(tmp_path, "generative", settings(str(tmp_path / "secret" / "model"), str(data)))
    text = (tmp_path / CARD).read_text()
    assert "pairs. # train.jsonl (train)" in text  # no line of its own
    assert "secret" not in text
    assert (card(tmp_path).base_model, card(tmp_path).datasets) == (None, None)


def test_what_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    assert is_data_set("someone/pairs")
    for path in ("data/pairs.jsonl.gz", "pairs.csv", "here", "./someone/pairs", "/a/b", "a/b/c"):
        assert not is_data_set(path), path


def test_the_base_model_is_handed_on_from_stage_to_stage(tmp_path: Path) -> None:
    supervised, downloaded, judge = (tmp_path / name for name in ("supervised", "downloaded", "judge"))
    for folder in (supervised, downloaded, judge):
        folder.mkdir()
    write_card(supervised, None, settings(policy={"path": "someone/base"}))
    write_card(judge, "generative", settings(str(supervised)))
    assert card(judge).base_model == "someone/base"
    # The card of a stranger's folder names what that was made of, which is not the folder.
    for text in ("---\nbase_model: someone/base\n---\n", "---\n: [\n---\n", "---\n- a\n---\n", "no metadata"):
        (downloaded / CARD).write_text(text)
        write_card(judge, "generative", settings(str(downloaded)))
        assert card(judge).base_model is None


def test_stages_and_data_modules_of_the_users_own(tmp_path: Path) -> None:
    own = {"class_path": "mine.Stage", "init_args": {"model": "an object"}}
    for given in ({"model": {"class_path": "mine.Stage"}}, {"model": own, "data": {"init_args": {"train": 3}}}):
        write_card(tmp_path, None, given)
        assert "Trained by `Stage`" in (tmp_path / CARD).read_text()
        assert card(tmp_path).base_model is None


def test_adapters_are_of_another_library(tmp_path: Path) -> None:
    write_card(tmp_path, "generative", settings(), adapter=True)
    assert card(tmp_path).library_name == "peft"
    assert "lora" in card(tmp_path).tags


def test_the_same_run_has_the_same_card(tmp_path: Path) -> None:
    write_card(tmp_path, "generative", settings())
    first = (tmp_path / CARD).read_bytes()
    write_card(tmp_path, "generative", settings())
    assert (tmp_path / CARD).read_bytes() == first


def test_figures_are_those_of_the_passport_and_go_with_it(tmp_path: Path) -> None:
    write_scalar(tmp_path)
    write_card(tmp_path, "bradley_terry", settings())
    before = (tmp_path / CARD).read_text()
    assert "Measured" not in before
    write_passport(tmp_path, PASSPORT)
    text = (tmp_path / CARD).read_text()
    assert "On 60 pairs of held_out.jsonl (30 prompts)" in text
    assert "| accuracy, both orders averaged | 0.812 (0.713 to 0.912) |" in text
    assert "| calibration error | 0.062 |" in text
    assert "| flip rate | not measured |" in text
    write_passport(tmp_path, {**PASSPORT, "data": {"file": "other.jsonl"}})
    assert "other.jsonl" in (tmp_path / CARD).read_text()
    assert "held_out.jsonl" not in (tmp_path / CARD).read_text()
    write_scalar(tmp_path)  # new weights: nothing is known of them
    assert (tmp_path / CARD).read_text() == before
    assert not (tmp_path / PASSPORT_FILE).exists()


@pytest.mark.parametrize("place", ["top", "end"])
def test_an_edited_card_is_left_alone_with_a_word(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_card(tmp_path, "generative", settings())
    text = (tmp_path / CARD).read_text()
    edited = text.replace("# Gen", "# My gen") if place == "top" else text + "More.\n"
    (tmp_path / CARD).write_text(edited)
    with caplog.at_level(logging.WARNING, "prl.models.model_card"):
        write_card(tmp_path, "generative", settings("someone/else"))
    assert [f"{CARD} was edited" in record.getMessage() for record in caplog.records] == [True]
    renew_figures(tmp_path, PASSPORT)
    assert (tmp_path / CARD).read_text() == edited


def test_a_folder_without_a_card_gets_none_from_a_passport(tmp_path: Path) -> None:
    renew_figures(tmp_path, PASSPORT)
    assert list(tmp_path.iterdir()) == []
