"""The passport beside a judge: what it holds, when it changes, and that it goes with the weights."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import prl
from prl.data import DataSource, PreferencePair, load_records
from prl.judge import BradleyTerryJudge, ComparisonEncoder, GenerativeJudge, JudgeTemplate, load_judge
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.examination import layout_gap
from prl.judge.files import save_judge
from prl.judge.passport import (
    adopt_passport,
    as_json,
    describe_judge,
    issue_passport,
    pairs_hash,
    read_passport,
    tokenizer_hash,
    weights_hash,
    write_passport,
)
from prl.rewards.folder import JUDGE_FILE, PASSPORT_FILE
from tests.helpers.pairs import labelled_pairs
from tests.helpers.tiny import tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?")
KINDS = ("generative", "bradley_terry")


def write_generative(folder: Path, template: JudgeTemplate = TEMPLATE) -> Path:
    encoder = ComparisonEncoder(tiny_tokenizer(), template, max_length=160)
    save_judge(folder, tiny_model(1), encoder.tokenizer, encoder)
    return folder


def write_scalar(folder: Path, head_weights: tuple[float, ...] = (1.0,)) -> Path:
    scalar = tiny_model(2, AutoModelForSequenceClassification, num_labels=len(head_weights))
    save_bradley_terry(folder, scalar, tiny_tokenizer(), 160, head_weights=head_weights)
    return folder


def write_rows(path: Path, pairs: list[PreferencePair], names: dict[str, str] | None = None) -> Path:
    names = names or {}
    rows = [
        {"prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected, "preference": p.preference}
        for p in pairs
    ]
    renamed = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judges")
    return {"generative": write_generative(root / "generative"), "bradley_terry": write_scalar(root / "bradley_terry")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", labelled_pairs(24, per_prompt=3))


def issued(folder: Path, data: Path, **source: Any) -> dict[str, Any]:
    pairs = load_records(DataSource(str(data), **source), PreferencePair)
    return issue_passport(load_judge(folder), folder, pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_inputs_give_the_same_bytes(kind: str, folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    first, second = issued(folders[kind], data), issued(folders[kind], data)
    assert as_json(first) == as_json(second)
    assert str(data.parent) not in as_json(first)
    path = write_passport(tmp_path, first)
    assert path.name == PASSPORT_FILE
    assert read_passport(tmp_path) == first


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_of_itself(kind: str, folders: dict[str, Path], data: Path) -> None:
    passport = issued(folders[kind], data, limit=20)
    assert passport["prl"] == prl.__version__
    assert passport["judge"]["kind"] == kind
    assert passport["judge"] == describe_judge(folders[kind])
    assert (passport["judge"]["template_fingerprint"] is None) == (kind == "bradley_terry")
    assert passport["data"]["num_pairs"] == passport["report"]["num_pairs"] == 20
    assert passport["report"]["num_prompts"] == 7
    assert set(passport["report"]["canaries"]) >= {"claim", "fake_end", "punctuation", "prompt_repeated", "markdown"}
    if kind == "bradley_terry":
        assert passport["report"]["order_gap"]["mean"] == 0
        assert passport["report"]["cyclic_triples"]["mean"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_the_type_that_was_measured(kind: str, folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    pairs = load_records(DataSource(str(data), limit=3), PreferencePair)
    judge = load_judge(folders[kind], "bfloat16")
    passport = issue_passport(judge, folders[kind], pairs, probes=False)
    assert passport["judge"]["dtype"] == "bfloat16"
    adopt_passport(folders[kind], passport)  # it is about the weights of this folder, whatever the type
    assert read_passport(folders[kind]) == passport
    (folders[kind] / PASSPORT_FILE).unlink()


def test_another_judge_has_another_report(folders: dict[str, Path], data: Path) -> None:
    generative, scalar = (issued(folders[kind], data)["report"] for kind in KINDS)
    assert generative["margin"] != scalar["margin"]


def test_hashes_of_the_data(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    pairs = labelled_pairs(24, per_prompt=3)
    renamed = write_rows(tmp_path / "renamed.jsonl", pairs, {"prompt": "question"})
    first = issued(folders["generative"], data)["data"]
    same_pairs = issued(folders["generative"], renamed, columns={"prompt": "question"})["data"]
    fewer = issued(folders["generative"], data, limit=20)["data"]
    assert same_pairs["pairs_sha256"] == first["pairs_sha256"]
    assert same_pairs["file_sha256"] != first["file_sha256"]
    assert fewer["pairs_sha256"] != first["pairs_sha256"]
    assert fewer["file_sha256"] == first["file_sha256"]


def test_hash_of_pairs_does_not_depend_on_the_column_of_the_better_response() -> None:
    prompt = [{"role": "user", "content": "p"}]
    for preference in (1.0, 0.7, 0.5, 0.1):
        there = PreferencePair(prompt, "a", "b", preference)
        assert pairs_hash([there]) == pairs_hash([PreferencePair(prompt, "b", "a", 1 - preference)])


def test_every_field_of_a_pair_is_in_its_hash() -> None:
    prompt = [{"role": "user", "content": "p"}]
    variants = [
        PreferencePair(prompt, "a", "b"),
        PreferencePair(prompt, "b", "a"),
        PreferencePair(prompt, "a", "b", 0.5),
        PreferencePair([{"role": "user", "content": "q"}], "a", "b"),
        PreferencePair([{"role": "system", "content": "p"}], "a", "b"),
    ]
    assert len({pairs_hash([pair]) for pair in variants}) == len(variants)


def test_hash_of_a_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)  # mere use
    assert tokenizer_hash(tokenizer) == before == tokenizer_hash(tiny_tokenizer())
    tokenizer.chat_template += " "
    assert tokenizer_hash(tokenizer) != before
    larger = tiny_tokenizer()
    larger.add_tokens(["new"])
    assert tokenizer_hash(larger) != before


def test_hash_of_the_template(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_generative(tmp_path, JudgeTemplate(TEMPLATE.text + " "))
    first, second = describe_judge(folders["generative"]), describe_judge(other)
    assert first["template_fingerprint"] != second["template_fingerprint"]
    assert first["tokenizer_sha256"] == second["tokenizer_sha256"]


def test_hash_of_the_weights_is_that_of_the_contents_of_all_files(tmp_path: Path) -> None:
    for name, content in (("model-00001-of-00002", b"ab"), ("model-00002-of-00002", b"c")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    assert weights_hash(tmp_path) == hashlib.sha256(b"abc").hexdigest()
    for number in (1, 2):  # of weights in two forms transformers reads safetensors
        (tmp_path / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"xyz"[number:])
    assert weights_hash(tmp_path) == hashlib.sha256(b"abc").hexdigest()
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    assert weights_hash(tmp_path) == hashlib.sha256(b"yzz").hexdigest()
    for path in tmp_path.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no .safetensors nor .bin file of weights"):
        weights_hash(tmp_path)


def test_the_hash_of_the_weights_is_the_same_for_the_same_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    before = weights_hash(folders["generative"])
    assert weights_hash(write_generative(tmp_path, JudgeTemplate(TEMPLATE.text + " "))) == before
    assert weights_hash(folders["bradley_terry"]) != before


@pytest.mark.parametrize("kind", KINDS)
def test_margins_of_a_sound_judge_hardly_depend_on_the_batch(kind: str, folders: dict[str, Path]) -> None:
    gap = layout_gap(load_judge(folders[kind]), labelled_pairs(24))
    assert 0 <= gap < 1e-5  # float32 on margins of a few units


def test_a_judge_that_attends_to_its_padding_is_seen(folders: dict[str, Path]) -> None:
    judge = load_judge(folders["generative"])

    def unmasked(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["attention_mask"])}

    judge.model.register_forward_pre_hook(unmasked, with_kwargs=True)
    assert layout_gap(judge, labelled_pairs(24)) > 0.1


@pytest.mark.parametrize("write", [write_generative, write_scalar])
def test_new_weights_discard_the_passport(write: Any, tmp_path: Path) -> None:
    write(tmp_path)
    write_passport(tmp_path, {"format": 1, "judge": {}, "data": {}, "report": {}})
    write(tmp_path)
    assert not (tmp_path / PASSPORT_FILE).exists()


def test_reading_a_passport(tmp_path: Path) -> None:
    assert read_passport(tmp_path) is None
    for text in ("{", "[]", "{}", '{"format": 99, "judge": {}, "data": {}, "report": {}}'):
        (tmp_path / PASSPORT_FILE).write_text(text)
        with pytest.raises(ValueError, match="not a passport of format 1"):
            read_passport(tmp_path)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "no length": ("max_length is missing", lambda found: found.pop("max_length")),
    "length as text": ("max_length is '96'", lambda found: found.update(max_length="96")),
    "huge length": ("max_length is 1000", lambda found: found.update(max_length=10**30)),
    "no length at all": ("max_length is 0", lambda found: found.update(max_length=0)),
    "temperature": ("temperature is 0", lambda found: found.update(temperature=0)),
    "infinite": ("Infinity is no number of JSON", lambda found: found.update(temperature=float("inf"))),
    "no template": ("template is missing", lambda found: found.pop("template")),
    "template as text": ("template is 'x'", lambda found: found.update(template="x")),
    "field": ("template has 'evil'", lambda found: found["template"].update(evil=1)),
    "text": ("template.text is missing", lambda found: found["template"].pop("text")),
    "no Jinja": ("is damaged: template.text", lambda found: found["template"].update(text="{{")),
    "deep": ("is damaged: ", lambda found: found["template"].update(text="{{ " + "[" * 5000)),
    "chat": ("template.chat is 'yes'", lambda found: found["template"].update(chat="yes")),
    "verdicts": ("template.verdicts is ['A']", lambda found: found["template"].update(verdicts=["A"])),
    "number": ("template.verdicts is ['A', 1]", lambda found: found["template"].update(verdicts=["A", 1])),
    "ids": ("verdict_ids is missing", lambda found: found.pop("verdict_ids")),
    "other ids": ("verdict_ids is [-1, 2]", lambda found: found.update(verdict_ids=[-1, 2])),
    "kind": ("kind is ['x']", lambda found: found.update(kind=["x"])),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_settings_file_is_named(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    words, change = WRONG[name]
    folder = shutil.copytree(folders["generative"], tmp_path / "judge")
    settings = json.loads((folder / JUDGE_FILE).read_text())
    change(settings)
    (folder / JUDGE_FILE).write_text(json.dumps(settings))
    for read in (load_judge, describe_judge):
        with pytest.raises(ValueError, match=re.escape(f"{folder / JUDGE_FILE} is damaged")) as told:
            read(folder)
        assert words in str(told.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"kind": NaN}', "[" * 100_000, "9" * 5000, "\ud800"])
def test_a_settings_file_that_is_no_object_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / JUDGE_FILE).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=rf"{JUDGE_FILE} is damaged \(it is "):
        load_judge(tmp_path)


def test_a_judge_of_before_there_was_a_temperature_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["generative"], tmp_path / "judge")
    settings = json.loads((folder / JUDGE_FILE).read_text())
    del settings["temperature"], settings["template"]["chat"], settings["template"]["answer_prefix"]
    (folder / JUDGE_FILE).write_text(json.dumps(settings))
    assert load_judge(folder).temperature == 1.0  # type: ignore[attr-defined]


def test_judges_are_loaded_by_what_their_folder_says(folders: dict[str, Path], tmp_path: Path) -> None:
    assert isinstance(load_judge(folders["generative"]), GenerativeJudge)
    assert isinstance(load_judge(folders["bradley_terry"]), BradleyTerryJudge)
    (tmp_path / JUDGE_FILE).write_text('{"kind": "oracle"}')
    with pytest.raises(ValueError, match="kind 'oracle'; expected one of generative, bradley_terry"):
        load_judge(tmp_path)
    with pytest.raises(ValueError, match="judge folder .*nowhere does not exist"):
        load_judge(tmp_path / "nowhere")
