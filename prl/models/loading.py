"""The only place that reads weights: Hugging Face folders, hub ids, GGUF files, or random weights from a config."""

import copy
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prl.config import LoRA, ModelSource
from prl.data.chat import set_chat_settings
from prl.models.adapters import is_adapted, learning_in_float32, merge_adapters, own_adapters
from prl.models.damage import check_file, naming_damage
from prl.models.dropout import disable_dropout, own_dropout
from prl.models.fresh import check_config_names, sizes_named
from prl.models.location import (
    ADAPTERS,
    TOKENIZER_FILES,
    ModelNotFoundError,
    adapter_chain,
    check_holds,
    is_hub_id,
    linked_model,
    location,
    pin_base,
)
from prl.models.quiet import quiet, without_bars
from prl.models.unused import deepspeed_left_alone
from prl.models.weights_check import (
    adapter_errors,
    check_found,
    check_missing,
    class_of_adapters,
    load_adapters,
    makes_new_head,
)

log = logging.getLogger(__name__)


@contextmanager
def _reading(path: str, adapters: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Resolve where from_pretrained reads a model; within the block errors are one line with the file's name.

    transformers explains a missing hub id on a whole page. `adapters` are folders whose base model is read.
    """
    where = location(path)
    if not is_hub_id(path):
        # Without it transformers goes on, and a response has no end.
        check_file(Path(path).expanduser() / "generation_config.json")
        with naming_damage(path):
            yield where
        return
    try:
        yield where
    except OSError as error:
        reason = str(error).partition("\n")[0]
        named, fix = f"model {path}", "Give a folder, or an id that the hub or its cache has"
        if adapters:
            named = f"the base model {path} of the adapters in {adapters[-1]}"
            fix = f"If it was moved, correct base_model_name_or_path in {Path(adapters[-1]) / ADAPTERS}"
        raise ModelNotFoundError(f"{named}: {reason} {fix}") from error


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, with a padding token, and its chat template settings.

    Raises:
        ModelNotFoundError: when the folder is missing, or a hub id cannot be had.
        ValueError: when the tokenizer has no end-of-sequence token.
    """
    path = str(source.tokenizer or source.path)  # ModelSource checked that there is one
    path = linked_model(path) or path
    check_holds(path, TOKENIZER_FILES, "copy it there from the base model, or set tokenizer to a folder that has one")
    with _reading(path) as where:
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=source.trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {path} has no end-of-sequence token, so a response could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks, not ids, tell padding apart
    set_chat_settings(tokenizer, source.chat_template_kwargs, source.chat_template_date)
    return tokenizer


_WITHOUT_WEIGHTS = ContextVar("models are made without their weights", default=False)


@contextmanager
def on_meta_device(enabled: bool = True) -> Iterator[None]:
    """Create models that are loaded inside on the meta device: another process will scatter their weights."""
    token = _WITHOUT_WEIGHTS.set(enabled)
    try:
        yield
    finally:
        _WITHOUT_WEIGHTS.reset(token)


def _load(
    auto_class: Any, source: ModelSource, *, new_head: bool = False, head_std: float | None = None, **extra: Any
) -> PreTrainedModel:
    if _WITHOUT_WEIGHTS.get():
        with torch.device("meta"):
            return init_model(auto_class, source, new_head=new_head, **extra)
    if source.path is None:
        model, made = _random(auto_class, source, extra), {"score.weight"}
    else:
        model, made = _read(auto_class, source, new_head, **extra)
    if head_std is not None:
        for name in made:
            nn.init.normal_(model.get_parameter(name), std=head_std)
    return _prepared(model, source, auto_class)


def _options(source: ModelSource) -> dict[str, Any]:
    attention = {"attn_implementation": source.attn_implementation} if source.attn_implementation else {}
    return {"dtype": getattr(torch, source.dtype), **attention}


def read_config(source: ModelSource, **extra: Any) -> Any:
    """Read the config of a model, for adapters that of their base model; no weights are read."""
    if source.path is None:
        return _config_of_fields(source, extra)
    *adapters, path = adapter_chain(source.path)
    check_holds(path, ("config.json",), "copy it there, or give another model folder or hub id")
    with _reading(path, adapters) as where:
        return AutoConfig.from_pretrained(**where, trust_remote_code=source.trust_remote_code, **extra)


def _random(auto_class: Any, source: ModelSource, extra: dict[str, Any]) -> PreTrainedModel:
    config = _config_of_fields(source, extra)
    with sizes_named(source):
        return auto_class.from_config(config, **_options(source))


def _config_of_fields(source: ModelSource, extra: dict[str, Any]) -> Any:
    tokenizer = load_tokenizer(source)
    fields = {"vocab_size": len(tokenizer), **dict(source.config or {}), **extra}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    with sizes_named(source):
        config = AutoConfig.for_model(**fields)
        check_config_names(config, source)
        return config


def _prepared(model: Any, source: ModelSource, auto_class: Any) -> Any:
    """Apply the settings of a source to a model that was just made."""
    disable_dropout(model)
    if source.gradient_checkpointing:
        # Only in train mode: a frozen model never pays. Without re-entry it works where no input has a gradient (LoRA).
        # Earlier releases of transformers 5 know it by its second name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    task = "SEQ_CLS" if auto_class is AutoModelForSequenceClassification else None  # keeps the new head trainable
    return add_lora(model, source.lora, task) if source.lora else model


def _read(auto_class: Any, source: ModelSource, new_head: bool, **extra: Any) -> tuple[Any, set[str]]:
    """Read a model from its files, and the names of weights that are new; adapters are merged with their base model.

    Raises:
        WeightsError: when the files lack a weight, or hold another one, or one of another shape.
    """
    assert source.path is not None
    options = {**_options(source), "trust_remote_code": source.trust_remote_code, **extra}
    *adapters, path = adapter_chain(source.path)
    if adapters and auto_class is AutoModel:  # adapters name their weights as the class that they were trained in
        auto_class, head = class_of_adapters(adapters[0])
        return _read(auto_class, source, new_head, **head, **extra)[0].base_model, set()
    # A scalar head missing in the base model is among the adapters, or made below.
    with quiet() if adapters or new_head else nullcontext(), without_bars(), _reading(path, adapters) as where:
        model, found = auto_class.from_pretrained(
            **where, **options, output_loading_info=True, ignore_mismatched_sizes=True
        )
    replaces_head = makes_new_head(auto_class, model.config)
    missing = check_found(
        *(auto_class, model, found, path), new_head=replaces_head, trust_remote_code=source.trust_remote_code
    )
    for folder in reversed(adapters):
        model, replaced = _merged(model, folder)
        missing -= replaced
    check_missing(model, missing, source.path, new_head=replaces_head and new_head)
    return model, missing


def _merged(model: Any, path: str) -> tuple[Any, set[str]]:
    """Merge a folder's adapters into a model; return it with the names of weights that the folder holds in full."""
    from peft import PeftModel

    folder = str(Path(path).expanduser())
    if not any((Path(folder) / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin")):
        raise ModelNotFoundError(f"folder {path} holds {ADAPTERS}, but no adapter_model.safetensors; copy it anew")
    with adapter_errors(folder):
        adapted = PeftModel.from_pretrained(model, folder)
    replaced = load_adapters(adapted, folder, own_adapters(adapted))
    merged = merge_adapters(adapted)
    merged.name_or_path = path  # new adapters are adapters of this, not of its base model
    return merged, replaced


def init_model(auto_class: Any, source: ModelSource, *, new_head: bool = True, **extra: Any) -> Any:
    """Initialise a model from the config of `source` without reading weights, on the meta device or as fake tensors.

    Raises:
        WeightsError: when files that are here are not those of the model; only their headers are looked at.
    """
    if source.path is None:
        return _prepared(_random(auto_class, source, extra), source, auto_class)
    path, config = adapter_chain(source.path)[-1], read_config(source, **extra)
    if Path(path).expanduser().is_dir() and any(Path(path).expanduser().glob("*.safetensors")):
        with unset_fake_temporarily(), quiet():
            found = _read(auto_class, source, new_head, device_map="meta", **extra)[0].config
        config.tie_word_embeddings = found.tie_word_embeddings  # which adapters on the head end
    model = auto_class.from_config(config, **_options(source))
    if model.can_generate():
        with suppress(OSError):  # it is not in every folder
            model.generation_config = GenerationConfig.from_pretrained(location(path)["pretrained_model_name_or_path"])
    return _prepared(model, source, auto_class)


def load_causal_lm(source: ModelSource) -> PreTrainedModel:
    """Load a causal language model, without dropout, with adapters on top when the source says so."""
    return _load(AutoModelForCausalLM, source)


def load_backbone(source: ModelSource) -> PreTrainedModel:
    """Load a model without its language head, as the backbone of a critic."""
    return _load(AutoModel, source)


def load_scalar_classifier(
    source: ModelSource, *, new_head: bool = True, heads: int = 1, small_head: bool = False
) -> PreTrainedModel:
    """Load a model with scalar outputs on the last token: a Bradley-Terry reward model.

    Args:
        source: where it comes from.
        new_head: give a language model, which has no such output, a new one to train.
        heads: scalars that it gives each response.
        small_head: make a new output normal with a standard deviation of 1 / (H + 1), H the hidden numbers, instead of
            the model's own, as the general preference model does (2410.02197, the authors' code).
    """
    width = read_config(source).get_text_config().hidden_size if small_head else 0
    model = _load(
        *(AutoModelForSequenceClassification, source),
        new_head=new_head,
        head_std=1 / (width + 1) if small_head else None,
        num_labels=heads,
    )
    model.config.pad_token_id = load_tokenizer(source).pad_token_id
    return model


def add_lora(model: PreTrainedModel, lora: LoRA, task_type: str | None = None) -> Any:
    """Freeze the model's weights and add low-rank adapters to train, in float32; `task_type` is peft's.

    Raises:
        ValueError: when there is no layer of a name in `lora.target_modules`.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=0.0,
        task_type=task_type,
    )
    try:
        return learning_in_float32(get_peft_model(model, settings))
    except ValueError as error:
        layers = {name.rpartition(".")[2] for name, module in model.named_modules() if not any(module.children())}
        names = ", ".join(sorted(name for name in layers if not name.isdecimal()))
        raise ValueError(
            f"lora.target_modules is {lora.target_modules}: {error}. Modules of this model: {names}"
        ) from error


def freeze(model: nn.Module) -> nn.Module:
    """Put the model in eval mode, without gradients: a reference or a judge."""
    return model.requires_grad_(False).eval()


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    merge: bool = True,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a folder that transformers loads without prl: safetensors, configs, tokenizer, chat template.

    Args:
        model: the model to write; in memory its adapters stay apart.
        tokenizer: written beside it.
        folder: made if need be.
        merge: put adapters into the weights. Otherwise only they are written, in peft's files, which transformers
            loads too where peft is installed and the base model is where it was.
        state: the weights of a model without adapters, where the model itself has not all of them.

    Raises:
        ValueError: for merge: false on a model without adapters, or into a folder that holds a whole model.
    """
    if not merge:
        if (Path(folder) / "config.json").exists():
            raise ValueError(f"{folder} holds a whole model, so adapters cannot go there; choose another")
        if not is_adapted(model):
            raise ValueError("the model has no adapters to write alone: model.lora was not set when it was trained")
        model.save_pretrained(folder, selected_adapters=[own_adapters(model)])
        pin_base(Path(folder))
        _share(folder, ADAPTERS)
        (Path(folder) / "README.md").unlink()  # peft's template of a card, all gaps
        tokenizer.save_pretrained(folder)
        return
    if is_adapted(model):
        model = merge_adapters(copy.deepcopy(model))
    if getattr(model, "hf_quantizer", None) is not None:  # GGUF weights were dequantised on reading
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.is_quantized = False
    with own_dropout(model), deepspeed_left_alone(), without_bars():
        model.save_pretrained(folder, state_dict=state)
    _share(folder, "config.json")
    # Adapters of an older model in the folder: transformers would put them on top of this one.
    for name in (ADAPTERS, "adapter_model.safetensors", "adapter_model.bin"):
        (Path(folder) / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)


def _share(folder: str | Path, like: str) -> None:
    """Give the weights the config's permissions: safetensors makes files for their owner only."""
    for file in Path(folder).glob("*.safetensors"):
        shutil.copymode(Path(folder) / like, file)
