"""Files that do not hold a model's weights are refused by name, however the model is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from prl.config import LoRA, ModelSource
from prl.judge.bradley_terry import BradleyTerryJudge, save_bradley_terry
from prl.models.adapters import AdapterOnBase
from prl.models.loading import (
    init_model,
    load_backbone,
    load_causal_lm,
    load_scalar_classifier,
    on_meta_device,
    save_model,
)
from prl.models.weights_check import WeightsError
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model

Weights = dict[str, Tensor]
LAYER = "model.layers.1.mlp.up_proj.weight"


def changed(folder: Path, change: Callable[[Weights], Any], to: Path, file: str = "model.safetensors") -> Path:
    """Copy a folder whose weights were changed by hand."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    weights = load_file(to / file)
    change(weights)
    save_file(weights, to / file, {"format": "pt"})
    return to


def read_as_shape(source: ModelSource) -> Any:
    return init_model(AutoModelForSequenceClassification, source, num_labels=1)


def read_without_weights(source: ModelSource) -> Any:
    with on_meta_device():
        return load_causal_lm(source)


FAULTS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "missing": (lambda w: w.pop(LAYER), r"missing \S*layers\.1\.mlp\.up_proj\.weight"),
    "no embeddings": (lambda w: w.pop("model.embed_tokens.weight"), r"missing \S*embed_tokens\.weight"),
    "unexpected": (
        lambda w: w.update({"model.layers.2.mlp.up_proj.weight": w[LAYER].clone()}),
        r"unexpected \S*layers\.2",
    ),
    "of another model": (lambda w: w.update({"v_head.weight": torch.zeros(1)}), r"unexpected v_head\.weight"),
    "shape": (
        lambda w: w.update({LAYER: torch.zeros(8, 16)}),
        r"layers\.1\.mlp\.up_proj\.weight is \[8, 16\] .*\[32, 16\]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "load", [load_causal_lm, load_backbone, load_scalar_classifier, read_as_shape, read_without_weights]
)
def test_every_reader_names_what_does_not_fit(fault, load, tiny_folder, tmp_path) -> None:
    change, words = FAULTS[fault]
    folder = changed(tiny_folder, change, tmp_path / "cut")
    with pytest.raises(WeightsError, match=f"{folder} does not hold the weights of Llama.*: .*{words}"):
        load(ModelSource(path=str(folder)))


def test_a_language_model_has_its_head_unless_it_is_the_embeddings(tiny_folder, tmp_path) -> None:
    headless = changed(tiny_folder, lambda w: w.pop("lm_head.weight"), tmp_path / "cut")
    with pytest.raises(WeightsError, match=r"missing lm_head\.weight"):
        load_causal_lm(ModelSource(path=str(headless)))
    load_backbone(ModelSource(path=str(headless)))  # which has none
    tied = write_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    model = load_causal_lm(ModelSource(path=str(tied)))
    assert torch.equal(model.lm_head.weight, tiny_model(0, tie_word_embeddings=True).lm_head.weight)
    read_without_weights(ModelSource(path=str(tied)))


def test_a_scalar_head_is_new_in_training_only(tiny_folder, tmp_path) -> None:
    source = ModelSource(path=str(tiny_folder))
    assert load_scalar_classifier(source).score.weight.shape == (1, 16)
    with pytest.raises(WeightsError, match=r"missing score\.weight"):
        load_scalar_classifier(source, new_head=False)
    judge = tmp_path / "judge"
    save_bradley_terry(judge, load_scalar_classifier(source), tiny_tokenizer(), 64)
    BradleyTerryJudge(str(judge)).load()
    cut = str(changed(judge, lambda w: w.pop("score.weight"), tmp_path / "cut"))
    with pytest.raises(WeightsError, match=r"missing score\.weight"):
        BradleyTerryJudge(cut).load()
    for load in (load_scalar_classifier, read_as_shape):  # a reward model to go on from has a head
        with pytest.raises(WeightsError, match=r"missing score\.weight"):
            load(ModelSource(path=cut))
    with pytest.raises(WeightsError, match=r"missing lm_head\.weight; unexpected score\.weight"):
        load_causal_lm(ModelSource(path=str(judge)))
    load_backbone(ModelSource(path=str(judge)))  # a critic may grow on a reward model


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "scalar"
    model = load_scalar_classifier(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2, target_modules=["q_proj"])))
    save_bradley_terry(folder, model, tiny_tokenizer(), 64, merge=False)
    return folder


IN_FRONT = "base_model.model."
ADAPTER_FAULTS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "missing": (lambda w: w.pop(f"{IN_FRONT}model.layers.1.self_attn.q_proj.lora_A.weight"), r"missing \S*lora_A"),
    "unexpected": (
        lambda w: w.update({f"{IN_FRONT}model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(2, 16)}),
        r"unexpected \S*layers\.9",
    ),
    "shape": (
        lambda w: w.update({f"{IN_FRONT}model.layers.1.self_attn.q_proj.lora_A.weight": torch.zeros(2, 8)}),
        r"layers\.1\S*q_proj\S*lora_A.*\[2, 8\]",
    ),
    "no head": (lambda w: w.pop(f"{IN_FRONT}score.weight"), r"missing \S*score\.weight"),
}


@pytest.mark.parametrize("fault", ADAPTER_FAULTS)
@pytest.mark.parametrize("load", [lambda s: BradleyTerryJudge(s.path).load(), read_as_shape])
def test_adapters_are_checked_too(fault, load, adapters, tmp_path) -> None:
    change, words = ADAPTER_FAULTS[fault]
    folder = changed(adapters, change, tmp_path / "cut", "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=f"{folder} does not hold the weights of its adapters: .*{words}"):
        load(ModelSource(path=str(folder)))


def test_a_critic_grows_on_adapters_of_several_heads(tiny_folder, tmp_path) -> None:
    source = ModelSource(path=str(tiny_folder), lora=LoRA(rank=2, target_modules=["q_proj"]))
    save_bradley_terry(
        *(tmp_path / "two", load_scalar_classifier(source, heads=2), tiny_tokenizer(), 64),
        merge=False,
        head_weights=(0.5, 0.5),
    )
    load_backbone(ModelSource(path=str(tmp_path / "two")))


def test_adapters_that_are_whole_are_read(adapters, tiny_folder, tmp_path) -> None:
    judge = BradleyTerryJudge(str(adapters))
    judge.load()
    expected = load_file(adapters / "adapter_model.safetensors")[f"{IN_FRONT}score.weight"]
    assert torch.equal(judge.model.score.weight, expected)
    cut = changed(tiny_folder, lambda w: w.pop(LAYER), tmp_path / "base")
    settings = json.loads((adapters / "adapter_config.json").read_text())
    other = tmp_path / "adapters"
    shutil.copytree(adapters, other)
    (other / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(cut)}))
    with pytest.raises(WeightsError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        BradleyTerryJudge(str(other)).load()


def test_adapters_beside_the_policys_are_checked(tiny_folder, tmp_path) -> None:
    source = ModelSource(path=str(tiny_folder), lora=LoRA(rank=2, target_modules=["q_proj"]))
    policy = load_causal_lm(source)
    save_model(policy, tiny_tokenizer(), tmp_path / "whole", merge=False)
    change = ADAPTER_FAULTS["missing"][0]
    cut = changed(tmp_path / "whole", change, tmp_path / "cut", "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"missing \S*layers\.1\.self_attn\.q_proj\.lora_A"):
        AdapterOnBase(policy, str(tiny_folder), str(cut))


def write_gguf(path: Path, without: str) -> Path:
    """Write the tiny model as a GGUF file, one weight left out."""
    gguf = pytest.importorskip("gguf")
    model, tokenizer = tiny_model(0), tiny_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, number in {
        **{"block_count": 2, "context_length": 512, "embedding_length": 16, "feed_forward_length": 32},
        **{"head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6, "vocab_size": len(vocabulary)},
        "rope_dimension_count": 8,
    }.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges([])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.state_dict().items():
        if name != without:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_has_all_weights(tmp_path) -> None:
    load_causal_lm(ModelSource(path=str(write_gguf(tmp_path / "whole.gguf", without=""))))
    cut = write_gguf(tmp_path / "cut.gguf", without=LAYER)
    with pytest.raises(WeightsError, match=rf"cut\.gguf does not hold the weights .* missing {LAYER}"):
        load_causal_lm(ModelSource(path=str(cut)))
