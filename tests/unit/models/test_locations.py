"""Where a path leads, and what is said of files that cannot be read."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prl.cli.commands import convert
from prl.config import LoRA, ModelSource
from prl.models.adapters import ADAPTERS
from prl.models.loading import ModelNotFoundError, init_model, is_hub_id, load_causal_lm, load_tokenizer, save_model
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model

IDS = torch.arange(5, 16)[None]


def test_a_name_in_a_folder_that_is_here_is_a_slip_and_no_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for path in ("runs/modle", "runs/"):
        assert not is_hub_id(path)
    for path in ("owner/name", "gpt2"):
        assert is_hub_id(path)
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ModelNotFoundError, match=r"folder runs/modle does not exist.*since runs is a folder here"):
            load(ModelSource(path="runs/modle"))
    Path("notes.txt").write_text("no model")
    with pytest.raises(ModelNotFoundError, match=r"notes.txt is a file, and no .gguf file; give a model folder"):
        load_causal_lm(ModelSource(path="notes.txt"))
    with pytest.raises(ModelNotFoundError, match=r"model folder missing/ does not exist"):
        load_causal_lm(ModelSource(path="missing/"))


def write_adapters(base: str, folder: Path) -> torch.Tensor:
    """Adapters that do something, and the logits of their model."""
    model = load_causal_lm(ModelSource(path=base, lora=LoRA(rank=2))).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, tiny_tokenizer(), folder, merge=False)
    return model(IDS).logits.detach()


def test_adapters_find_a_relative_base_from_where_they_were_written(tmp_path, monkeypatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    write_tiny_model(project / "runs" / "sft", seed=1)
    write_tiny_model(elsewhere / "runs" / "sft", seed=2)  # of the same name, and not meant
    monkeypatch.chdir(project)
    inside, outside = Path("runs/judge/adapters"), tmp_path / "out" / "adapters"
    expected = write_adapters("runs/sft", inside)
    expected_outside = write_adapters("runs/sft", outside)
    monkeypatch.chdir(elsewhere)
    for folder, logits in ((project / inside, expected), (outside, expected_outside)):
        found = load_causal_lm(ModelSource(path=str(folder)))
        torch.testing.assert_close(found(IDS).logits, logits, atol=1e-3, rtol=0)
        init_model(AutoModelForCausalLM, ModelSource(path=str(folder)))
    shutil.move(project, tmp_path / "moved")  # a project that is copied somewhere else works there
    found = load_causal_lm(ModelSource(path=str(tmp_path / "moved" / inside)))
    torch.testing.assert_close(found(IDS).logits, expected, atol=1e-3, rtol=0)
    with pytest.raises(ModelNotFoundError, match=r"base model .*project/runs/sft of the adapters in .*out.* not exist"):
        load_causal_lm(ModelSource(path=str(outside)))


def point(folder: Path, base: str) -> str:
    settings = json.loads((folder / ADAPTERS).read_text())
    (folder / ADAPTERS).write_text(json.dumps({**settings, "base_model_name_or_path": base}))
    return str(folder)


def test_a_relative_base_that_is_nowhere_is_refused(tiny_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_adapters(str(tiny_folder), tmp_path / "adapters")
    path = point(tmp_path / "adapters", "runs/sft/model")
    for read in (load_causal_lm, lambda source: init_model(AutoModelForCausalLM, source)):
        with pytest.raises(
            ModelNotFoundError, match=r"base model runs/sft/model of the adapters in .* looked for from"
        ):
            read(ModelSource(path=path))


@pytest.mark.parametrize("circle", [["a"], ["a", "b"]], ids=len)
def test_adapters_in_a_circle_are_refused(circle, tiny_folder, tmp_path) -> None:
    for name, base in zip(circle, [*circle[1:], circle[0]], strict=True):
        write_adapters(str(tiny_folder), tmp_path / name)
        point(tmp_path / name, str(tmp_path / base))
    source = ModelSource(path=str(tmp_path / "a"))
    for read in (load_causal_lm, lambda source: init_model(AutoModelForCausalLM, source)):
        with pytest.raises(ValueError, match=r"have no base model: their files point in a circle, .*a -> .*a\."):
            read(source)


class Runs:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, ("it_ran",)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights cut": ("model.safetensors", lambda f: os.truncate(f, 3000), "SafetensorError: .*incomplete"),
    "weights empty": ("model.safetensors", lambda f: f.write_bytes(b""), "SafetensorError: .*header too small"),
    "config cut": ("config.json", lambda f: f.write_text("{"), "JSONDecodeError: Expecting property name"),
    "config of another kind": ("config.json", lambda f: f.write_text("[]"), "expected an object, found list"),
    "config not text": ("config.json", lambda f: f.write_bytes(b"\xff{}"), "UnicodeDecodeError"),
    "end tokens cut": ("generation_config.json", lambda f: f.write_text("{"), "JSONDecodeError"),
    "tokenizer cut": ("tokenizer.json", lambda f: f.write_text("{"), "JSONDecodeError"),
    "tokenizer malformed": ("tokenizer.json", lambda f: f.write_text('{"model": 5}'), "did not match any variant"),
    "pickle": ("pytorch_model.bin", lambda f: f.write_bytes(pickle.dumps(Runs())), "nothing in it was run"),
    "adapters": (ADAPTERS, lambda f: f.write_text("{}"), "KeyError: 'base_model_name_or_path'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_with_what_its_reader_said(name, tiny_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, damage, words = DAMAGES[name]
    shutil.copytree(tiny_folder, "m")
    if name == "pickle":
        Path("m/model.safetensors").unlink()
    damage(Path("m") / file)
    with pytest.raises(ValueError, match=rf"^m/{file} is damaged \(.*{words}.*\); copy it anew"):
        convert.main(["m", "x"])
    assert not Path("it_ran").exists()
    assert not Path("x").exists()


@pytest.mark.parametrize("content", [b"GGUF", b"junk", b""])
@pytest.mark.parametrize("load", [load_causal_lm, load_tokenizer])
def test_a_damaged_gguf_file_is_named(content, load, tmp_path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.gguf is damaged \(.+\); copy it anew"):
        load(ModelSource(path=str(tmp_path / "m.gguf")))


def test_what_no_file_explains_names_the_folder(tmp_path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with pytest.raises(ValueError, match=f"the model in {tmp_path} cannot be read .*`nosuch`"):
        load_causal_lm(ModelSource(path=str(tmp_path)))
    tiny_model(0).save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "model.safetensors").unlink()
    (shard, *_) = sorted(tmp_path.glob("model-00002-*"))
    shard.unlink()
    with pytest.raises(ValueError, match=f"the model in {tmp_path} cannot be read .*{shard.name}"):
        load_causal_lm(ModelSource(path=str(tmp_path)))


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_weights_are_readable_to_those_who_may_read_the_config(mask, tiny_folder, tmp_path) -> None:
    model = load_causal_lm(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2)))
    before = os.umask(mask)
    try:
        save_model(model, tiny_tokenizer(), tmp_path / "merged")
        save_model(model, tiny_tokenizer(), tmp_path / "adapters", merge=False)
    finally:
        os.umask(before)
    for file in (tmp_path / "merged/model.safetensors", tmp_path / "adapters/adapter_model.safetensors"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
