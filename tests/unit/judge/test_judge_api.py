"""`prl.judge.Judge`: what users of Python see."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from prl.config import LoRA, ModelSource
from prl.judge import BradleyTerryJudge, ComparisonEncoder, GenerativeJudge, Judge
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.files import save_judge
from prl.judge.passport import describe_judge, write_passport
from prl.models.loading import load_causal_lm, load_scalar_classifier, save_model
from prl.models.model_card import CARD, write_card
from prl.rewards.folder import JUDGE_FILE, PASSPORT_FILE, TEMPLATE_FILE
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.pairs import QualityJudge
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model
from tests.unit.judge.test_passport import TEMPLATE, write_generative, write_scalar

ROOT = Path(__file__).parents[3]
PROMPTS, A, B = ["reverse abc", "copy xy", "sort cab"], ["cba", "xy", "abc and more"], ["abc", "yx", "cab"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judges")
    return {"generative": write_generative(root / "generative"), "bradley_terry": write_scalar(root / "bradley_terry")}


@pytest.fixture(params=["generative", "bradley_terry"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.tolist() == other.tolist()


def test_the_folder_says_which_kind_it_is(folders: dict[str, Path]) -> None:
    assert isinstance(Judge.from_pretrained(folders["generative"]).model, GenerativeJudge)
    assert isinstance(Judge.from_pretrained(str(folders["bradley_terry"])).model, BradleyTerryJudge)


def test_texts_and_messages_are_the_same(folder: Path) -> None:
    judge = Judge.from_pretrained(folder, device="cpu")
    plain = judge.compare(PROMPTS, A, B)
    assert plain.win_prob.std() > 1e-4  # otherwise equality would say nothing
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    a = [[{"role": "assistant", "content": f" {text}\n"}] for text in A]
    for verdict in (judge.compare(prompts, a, B), judge.compare([tuple(p) for p in prompts], tuple(A), B)):
        assert same(verdict.margin_ab, plain.margin_ab)
        assert same(verdict.margin_ba, plain.margin_ba)


def test_numbers_are_those_of_the_two_orders(folder: Path) -> None:
    judge = Judge.from_pretrained(folder, device="cpu")
    there, back = judge.compare(PROMPTS, A, B), judge.compare(PROMPTS, B, A)
    assert_same_numbers(there.win_logit, (there.margin_ab - back.margin_ab) / 2)
    torch.testing.assert_close(there.win_prob, there.win_logit.sigmoid())
    assert_same_numbers(there.win_prob + back.win_prob, torch.ones(3))
    expected = (there.margin_ab.sigmoid() + there.margin_ba.sigmoid() - 1).abs()
    torch.testing.assert_close(there.order_gap, expected)


def test_an_empty_response_can_be_judged(folder: Path) -> None:
    verdict = Judge.from_pretrained(folder).compare(["copy x"], ["  "], ["x"])
    assert verdict.win_prob.isfinite().all()


@pytest.fixture(params=["generative", "bradley_terry"])
def adapters(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a judge's folder as `prl export --adapter-only` does."""
    tokenizer, folder = tiny_tokenizer(), tmp_path / "adapters"
    source = ModelSource(path=str(write_tiny_model(tmp_path / "base", seed=1)), lora=LoRA(rank=4))
    generative = request.param == "generative"
    model: Any = load_causal_lm(source) if generative else load_scalar_classifier(source)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    if generative:
        save_judge(folder, model, tokenizer, ComparisonEncoder(tokenizer, TEMPLATE, 64), merge=False)
    else:
        save_bradley_terry(folder, model, tokenizer, 64, merge=False)
    settings = {"model": {"class_path": "Some"}, "data": {"init_args": {"train": {"path": "someone/pairs"}}}}
    write_card(folder, request.param, settings, adapter=True)
    return folder


def test_a_judge_of_adapters_is_saved_whole(adapters: Path, tmp_path: Path, capfd: Any) -> None:
    capfd.readouterr()
    judge = Judge.from_pretrained(adapters, device="cpu")
    assert "MISSING" not in capfd.readouterr().err
    verdict, whole = judge.compare(PROMPTS, A, B), tmp_path / "whole"
    judge.save_pretrained(whole)
    assert ModelCard.load(whole / CARD).data.library_name == "transformers"
    assert ModelCard.load(whole / CARD).data.datasets == ["someone/pairs"]
    judge.save_pretrained(adapters)  # where the adapters lie that it was read from
    for folder in (whole, adapters):
        assert same(Judge.from_pretrained(folder, device="cpu").compare(PROMPTS, A, B).margin_ab, verdict.margin_ab)
        assert not list(folder.glob("adapter*"))
    with pytest.raises(ValueError, match="holds a whole model, so adapters cannot go there"):
        save_model(judge.model.model, tiny_tokenizer(), whole, merge=False)


def test_adapters_of_another_judge_are_not_left_in_the_folder(adapters: Path, folder: Path) -> None:
    judge = Judge.from_pretrained(folder, device="cpu")
    judge.save_pretrained(adapters)
    again = Judge.from_pretrained(adapters, device="cpu").compare(PROMPTS, A, B)
    assert same(again.margin_ab, judge.compare(PROMPTS, A, B).margin_ab)
    assert ModelCard.load(adapters / CARD).data.datasets is None  # that card was of the other judge


def test_what_is_cut_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge.from_pretrained(folder, device="cpu")
    judge.compare(PROMPTS, A, B)
    assert caplog.text == ""
    for _ in range(2):
        judge.compare(["copy x"], ["x" * 500], ["y"])
    assert len([line for line in caplog.messages if "longer than its max_length and was cut" in line]) == 1


def test_a_file_in_the_place_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; expected a folder"):
        Judge.from_pretrained(folder).save_pretrained(tmp_path / "file")


def test_a_damaged_settings_file_and_a_missing_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "judge")
    (tmp_path / "judge" / JUDGE_FILE).write_text('{"kind": "gene')
    with pytest.raises(ValueError, match=f"{JUDGE_FILE} is damaged .*export the judge again"):
        Judge.from_pretrained(tmp_path / "judge")
    with pytest.raises(ValueError, match="judge folder .*nowhere does not exist"):
        Judge.from_pretrained(tmp_path / "nowhere")


def test_options(folders: dict[str, Path]) -> None:
    judge = Judge.from_pretrained(folders["generative"], dtype=torch.bfloat16, device="cpu", max_batch_tokens=99)
    assert next(judge.model.parameters()).dtype is torch.bfloat16
    assert judge.model.max_batch_tokens == 99
    assert Judge.from_pretrained(folders["bradley_terry"], dtype="float16", batch_size=2).model.batch_size == 2
    with pytest.raises(ValueError, match="dtype is 'int8'; expected one of float32, bfloat16, float16"):
        Judge.from_pretrained(folders["generative"], dtype="int8")


@pytest.mark.parametrize(
    ("prompts", "a", "words"),
    [
        ("p", ["x"], "prompts is one text; expected a list"),
        (["p"], "x", "a is one text; expected a list"),
        (["p", "q"], ["x"], "2 prompts, 1 responses a and 1 responses b"),
        ([3], ["x"], r"prompts\[0\]: "),
        ([""], ["x"], r"prompts\[0\]: .*empty text"),
        ([[{"role": "assistant", "content": "p"}]], ["x"], r"prompts\[0\]: .*assistant turn"),
        (["p"], [None], r"a\[0\] is 'None'; expected a text or a list with one assistant message"),
        (["p"], [[{"role": "user", "content": "x"}]], r"a\[0\] is .*one assistant message"),
        (["p"], [[]], r"a\[0\] is '\[\]'"),
    ],
)
def test_what_cannot_be_compared_is_named(prompts: object, a: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Judge(QualityJudge()).compare(prompts, a, ["y"])  # type: ignore[arg-type]


def test_what_is_no_judge_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a judge"):
        Judge.from_pretrained(tmp_path)
    shutil.copytree(folders["generative"], tmp_path / "run" / "model")
    with pytest.raises(ValueError, match=r"is the folder of a run; its judge is in .*model"):
        Judge.from_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="is a checkpoint; .*prl export"):
        Judge.from_pretrained(tmp_path / "last.ckpt")


def test_saving(folder: Path, tmp_path: Path) -> None:
    measured = shutil.copytree(folder, tmp_path / "measured")
    passport: dict[str, Any] = {"format": 1, "judge": describe_judge(measured), "data": {"file": "a.jsonl"}}
    passport["report"] = {"num_pairs": 9, "num_prompts": 3}
    write_passport(measured, passport)
    judge = Judge.from_pretrained(measured, device="cpu")
    judge.save_pretrained(tmp_path / "again")
    again = Judge.from_pretrained(tmp_path / "again", device="cpu")
    assert same(again.compare(PROMPTS, A, B).margin_ab, judge.compare(PROMPTS, A, B).margin_ab)
    # The same weights, so what was measured still holds; other weights have no passport.
    assert (tmp_path / "again" / PASSPORT_FILE).read_bytes() == (measured / PASSPORT_FILE).read_bytes()
    next(judge.model.model.parameters()).data *= 1.01
    judge.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other" / PASSPORT_FILE).exists()
    with pytest.raises(ValueError, match="QualityJudge has no weights to write"):
        Judge(QualityJudge()).save_pretrained(tmp_path)


def test_the_template_lies_beside_its_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["generative"], tmp_path / "judge")
    assert (folder / TEMPLATE_FILE).read_text() == TEMPLATE.text
    assert not (folders["bradley_terry"] / TEMPLATE_FILE).exists()
    (folder / TEMPLATE_FILE).write_text(TEMPLATE.text + "\nThink hard.")
    with pytest.raises(ValueError, match=rf"{TEMPLATE_FILE} differs from the template in {JUDGE_FILE}"):
        Judge.from_pretrained(folder)
    (folder / TEMPLATE_FILE).unlink()
    Judge.from_pretrained(folder)


def test_a_hub_id_is_read_from_the_cache_without_a_network(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--judge"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folders["generative"], repository / "snapshots" / ("0" * 40))
    found = Judge.from_pretrained("someone/judge", device="cpu")
    local = Judge.from_pretrained(folders["generative"], device="cpu")
    assert same(found.compare(PROMPTS, A, B).margin_ab, local.compare(PROMPTS, A, B).margin_ab)
    with pytest.raises(ValueError, match="someone/else is neither a folder here nor a judge on the hub"):
        Judge.from_pretrained("someone/else")


@pytest.mark.parametrize("document", ["docs/python.md", "docs/judge.md"])
def test_the_example_of_a_document_runs(
    document: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / document).read_text()
    monkeypatch.chdir(tmp_path)
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "judge.compare" in code)
    names: dict = {}
    exec(example.replace("runs/quickstart/judge/model", str(folder)), names)
    assert names["verdict"].win_prob.shape == (1,)
