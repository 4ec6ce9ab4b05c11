import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prl.config import LoRA, ModelSource
from prl.data.encoding import encode_prompt
from prl.data.tokens import tokenizer_hash
from prl.models.loading import (
    ModelNotFoundError,
    disable_dropout,
    freeze,
    is_adapted,
    load_backbone,
    load_causal_lm,
    load_scalar_classifier,
    load_tokenizer,
    on_meta_device,
    save_model,
)
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import LLAMA, tiny_model, tiny_tokenizer, write_tiny_model

IDS = torch.arange(5, 16).repeat(2, 1)


def test_a_folder_gives_back_the_weights_that_were_written(tiny_folder) -> None:
    model = load_causal_lm(ModelSource(path=str(tiny_folder)))
    expected = tiny_model(0).state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_a_backbone_is_the_same_model_without_its_head(tiny_folder) -> None:
    source = ModelSource(path=str(tiny_folder))
    hidden = load_backbone(source)(IDS).last_hidden_state
    assert torch.equal(hidden, load_causal_lm(source).model(IDS).last_hidden_state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_the_weights(tiny_folder, dtype) -> None:
    source = ModelSource(path=str(tiny_folder), dtype=dtype)
    assert {p.dtype for p in load_causal_lm(source).parameters()} == {getattr(torch, dtype)}
    from_config = ModelSource(config=LLAMA, tokenizer=str(tiny_folder), dtype=dtype)
    assert {p.dtype for p in load_causal_lm(from_config).parameters()} == {getattr(torch, dtype)}


def test_random_weights_take_vocabulary_and_special_tokens_from_the_tokenizer(tiny_folder) -> None:
    source = ModelSource(config=LLAMA, tokenizer=str(tiny_folder))
    config, tokenizer = load_causal_lm(source).config, tiny_tokenizer()
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    torch.manual_seed(1)
    first = load_causal_lm(source).lm_head.weight
    torch.manual_seed(2)
    assert not torch.equal(load_causal_lm(source).lm_head.weight, first)


def test_a_scalar_classifier_has_one_output_and_knows_the_padding(tiny_folder) -> None:
    model = load_scalar_classifier(ModelSource(path=str(tiny_folder)))
    assert model(IDS).logits.shape == (2, 1)
    assert model.config.pad_token_id == tiny_tokenizer().pad_token_id


def test_attention_implementation_is_passed_on(tiny_folder) -> None:
    for source in (
        ModelSource(path=str(tiny_folder), attn_implementation="eager"),
        ModelSource(config=LLAMA, tokenizer=str(tiny_folder), attn_implementation="eager"),
    ):
        assert load_causal_lm(source).config._attn_implementation == "eager"


@pytest.mark.parametrize("load", [load_causal_lm, load_tokenizer, load_backbone])
def test_missing_things_are_named_with_what_to_do(tmp_path, load) -> None:
    with pytest.raises(
        ModelNotFoundError, match="model folder .*/nowhere does not exist; run the stage that writes it"
    ):
        load(ModelSource(path=str(tmp_path / "nowhere")))
    with pytest.raises(ModelNotFoundError, match="GGUF file .*/weights.gguf does not exist"):
        load(ModelSource(path=str(tmp_path / "weights.gguf")))
    with pytest.raises(ModelNotFoundError, match="holds no config.json: it is not a Hugging Face model folder"):
        load(ModelSource(path=str(tmp_path)))


def test_a_hub_id_that_cannot_be_had_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.\nOr read the docs.")

    for reader, load in ((AutoTokenizer, load_tokenizer), (AutoModelForCausalLM, load_causal_lm)):
        monkeypatch.setattr(reader, "from_pretrained", unreachable)
        with pytest.raises(ModelNotFoundError, match="model owner/name: We couldn't connect to the hub. Give a"):
            load(ModelSource(path="owner/name"))


def test_a_relative_folder_is_not_taken_for_a_hub_id() -> None:
    with pytest.raises(ModelNotFoundError, match="model folder ./runs/none does not exist"):
        load_causal_lm(ModelSource(path="./runs/none"))
    with pytest.raises(ModelNotFoundError, match="model folder runs/none/model does not exist"):
        load_causal_lm(ModelSource(path="runs/none/model"))


def test_a_tokenizer_must_be_able_to_end_a_response(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no end-of-sequence token"):
        load_tokenizer(ModelSource(path=str(tmp_path)))


def test_padding_falls_back_to_the_end_token(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelSource(path=str(tmp_path))).pad_token_id == tokenizer.eos_token_id


def test_a_source_is_a_path_or_a_config() -> None:
    for fields in ({}, {"path": "x", "config": LLAMA, "tokenizer": "x"}):
        with pytest.raises(ValueError, match="either path or config"):
            ModelSource(**fields)
    with pytest.raises(ValueError, match="no model_type"):
        ModelSource(config={"hidden_size": 8}, tokenizer="x")
    with pytest.raises(ValueError, match="set tokenizer to a folder"):
        ModelSource(config=LLAMA)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DROPPING = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "llama": {**LLAMA, "attention_dropout": 0.5},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "attention_dropout": 0.5},
    "gpt_neox": {**SMALL, "hidden_dropout": 0.5, "attention_dropout": 0.5},
    "phi": {**SMALL, "embd_pdrop": 0.5, "resid_pdrop": 0.5, "attention_dropout": 0.5},
    "opt": {
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "dropout": 0.5,
        "attention_dropout": 0.5,
    },
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, "hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_dropout": 0.5},
}


@pytest.mark.parametrize("name", DROPPING)
def test_a_training_model_without_dropout_is_the_same_twice(name) -> None:
    config = AutoConfig.for_model(**{"model_type": name, "vocab_size": 100, **DROPPING[name]})
    model = AutoModelForCausalLM.from_config(config).train()
    assert not torch.equal(model(IDS).logits, model(IDS).logits)  # the architecture does drop
    disable_dropout(model)
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_freeze() -> None:
    model = freeze(tiny_model().train())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def adapted(folder, **lora):
    model = load_causal_lm(ModelSource(path=str(folder), lora=LoRA(**lora)))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_only_adapters_train(tiny_folder) -> None:
    model = load_causal_lm(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2, alpha=4)))
    assert is_adapted(model)
    assert not is_adapted(load_causal_lm(ModelSource(path=str(tiny_folder))))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
    assert_same_numbers(model(IDS).logits, tiny_model(0)(IDS).logits, 1e-6)  # starts as the base


def test_adapters_go_where_there_are_layers(tiny_folder) -> None:
    source = ModelSource(path=str(tiny_folder), lora=LoRA(target_modules=["nosuch"]))
    with pytest.raises(ValueError, match=r"lora\.target_modules is \['nosuch'\]: .*Modules of this model: .*q_proj"):
        load_causal_lm(source)


def test_a_step_moves_the_adapters_and_nothing_else(tiny_folder) -> None:
    model = adapted(tiny_folder, rank=2, alpha=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(IDS).logits.square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


@torch.no_grad()
def test_saving_merges_the_adapters_and_leaves_them_apart_in_memory(tiny_folder, tmp_path) -> None:
    model = adapted(tiny_folder, rank=2, alpha=4, target_modules=["q_proj", "down_proj"]).eval()
    expected = model(IDS).logits
    assert (expected - tiny_model(0)(IDS).logits).abs().max() > 0.1  # the adapters do something
    save_model(model, tiny_tokenizer(), tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert_same_numbers(merged(IDS).logits, expected)
    assert is_adapted(model)
    torch.testing.assert_close(model(IDS).logits, expected, atol=0, rtol=0)
    with model.disable_adapter():
        assert_same_numbers(model(IDS).logits, tiny_model(0)(IDS).logits, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]], ids=str)
def test_adapters_on_one_end_of_a_tied_model_are_exported_as_trained(targets, tmp_path) -> None:
    base = write_tiny_model(tmp_path / "base", tie_word_embeddings=True)
    model = adapted(base, rank=2, alpha=4, target_modules=targets).eval()
    expected = model(IDS).logits
    save_model(model, tiny_tokenizer(), tmp_path / "merged")
    save_model(model, tiny_tokenizer(), tmp_path / "adapters", merge=False)
    in_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapters")
    for read in (AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), in_peft):
        torch.testing.assert_close(read(IDS).logits, expected, atol=1e-4, rtol=0)
    read = load_causal_lm(ModelSource(path=str(tmp_path / "adapters")))
    torch.testing.assert_close(read(IDS).logits, expected, atol=1e-4, rtol=0)
    with on_meta_device():
        empty = load_causal_lm(ModelSource(path=str(tmp_path / "adapters")))
    names = [name for name, _ in empty.named_parameters()]
    assert names == [name for name, _ in read.named_parameters()]  # of which the first process hands out weights
    torch.testing.assert_close(model(IDS).logits, expected, atol=0, rtol=0)  # in memory it is still tied


@torch.no_grad()
def test_a_backbone_of_adapters_has_them(tiny_folder, tmp_path) -> None:
    model = adapted(tiny_folder, rank=2, alpha=4, target_modules=["q_proj", "down_proj"]).eval()
    save_model(model, tiny_tokenizer(), tmp_path, merge=False)
    found = load_backbone(ModelSource(path=str(tmp_path)))(IDS).last_hidden_state
    expected = model(IDS, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["whole", "adapters"])
def test_an_exported_config_has_the_models_own_dropout(lora, tmp_path) -> None:
    base = write_tiny_model(tmp_path / "base", attention_dropout=0.25)
    model = load_causal_lm(ModelSource(path=str(base), lora=lora)).train()
    save_model(model, tiny_tokenizer(), tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").attention_dropout == 0.25
    assert torch.equal(model(IDS).logits, model(IDS).logits)  # which still has none


def test_saved_folders_hold_model_and_tokenizer(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    save_model(tiny_model(), tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    assert not list(tmp_path.glob("*.bin"))


def test_an_adapted_scalar_model_keeps_its_new_head_trainable(tiny_folder) -> None:
    model = load_scalar_classifier(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2)))
    head = [parameter for name, parameter in model.named_parameters() if "score" in name and "original" not in name]
    assert head
    assert all(parameter.requires_grad for parameter in head)


def test_what_a_chat_template_is_told_is_saved_and_may_be_changed(tmp_path, caplog) -> None:
    folder = write_tiny_model(tmp_path / "model")
    template = "{{ strftime_now('%Y') }}{{ enable_thinking | default('?') }}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(template)

    def read(path, **told) -> tuple[str, str]:
        tokenizer = load_tokenizer(ModelSource(path=str(path), **told))
        text = tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": "x"}]))
        tokenizer.save_pretrained(tmp_path / "saved")
        return text, tokenizer_hash(tokenizer)

    plain = read(folder)
    assert plain[0] == "2024?x"
    assert "writes the date; prl always tells it 2024-07-26" in caplog.text
    told = read(folder, chat_template_kwargs={"enable_thinking": False}, chat_template_date="2031-01-02")
    assert told[0] == "2031Falsex"
    assert told == read(tmp_path / "saved")
    assert told[1] != plain[1]
    assert read(tmp_path / "saved", chat_template_kwargs={}, chat_template_date="2024-07-26") == plain
    with pytest.raises(ValueError, match="chat_template_date is 'today'; expected a day"):
        ModelSource(path="x", chat_template_date="today")


def test_deepspeed_is_not_imported_to_write_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def find_spec(self, name: str, *_: object) -> None:
            assert name != "deepspeed"

    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Trap(), *sys.meta_path])
    save_model(tiny_model(0), tiny_tokenizer(), tmp_path / "model")
    assert "deepspeed" not in sys.modules
