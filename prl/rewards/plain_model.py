"""Settings of a judge or reward model that was not made by prl, and so has no prl_judge.json."""

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from prl.config import ModelSource
from prl.distributed import rank
from prl.models.limits import most_positions
from prl.models.loading import read_config
from prl.system.json_files import read_object

log = logging.getLogger(__name__)

LONGEST = 4096
"""Most tokens of a text where the settings name no length: models for long texts would take the memory for them."""
_LANGUAGE_MODELS = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
"""Classes of transformers; most are called ...ForCausalLM, GPT-2's is GPT2LMHeadModel."""


def plain_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of a judge for a model without prl_judge.json; None for a folder of anything else.

    A classifier is a scalar reward model, with a head for each label. A causal language model, also in a .gguf file, is
    a generative judge with the default template, which was not trained as one.

    Raises:
        ValueError: for a classifier that reads in both directions.
    """
    is_gguf = path.suffix == ".gguf" and path.is_file()
    if not is_gguf and not (path / "config.json").is_file():
        return None
    config = read_config(ModelSource(path=str(path)))
    architecture = (config.architectures or [""])[0]
    length = min(most_positions(config) or LONGEST, LONGEST)
    if architecture.endswith("ForSequenceClassification"):
        return _of_classifier(path, config, architecture, length)
    if is_gguf or architecture.endswith("ForCausalLM") or architecture in _LANGUAGE_MODELS:
        file = f'{{"kind": "generative", "max_length": {length}}}'
        _tell_once(path, architecture, "a judge, with a template that it was not trained with,", length, file)
        return {"kind": "generative", "max_length": length}
    return None


def _of_classifier(folder: Path, config: Any, architecture: str, length: int) -> dict[str, Any]:
    """Return the settings of a classifier; one with several labels is marked, since its reward needs their weights."""
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not _has_chat_template(folder):
        raise ValueError(
            f"{folder} is a {architecture}, an encoder that reads in both directions, and without a chat template "
            "nothing says how it wants prompt and response put together; take a classifier on a causal language model, "
            "or write a source of rewards for it (docs/extending.md)"
        )
    settings: dict[str, Any] = {"kind": "bradley_terry", "max_length": length}
    file = f'{{"kind": "bradley_terry", "max_length": {length}}}'
    if config.num_labels > 1:
        names = [str(config.id2label.get(label, label)) for label in range(config.num_labels)]
        settings |= {"head_weights": [1.0] * config.num_labels, "head_names": names, "unweighted": True}
        file = f'{file[:-1]}, "head_weights": [a number for each label]}}'
    _tell_once(folder, architecture, "the reward model", length, file)
    return settings


def _has_chat_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        settings.is_file() and "chat_template" in read_object(settings)
    )


def check_weighted(folder: str, settings: Mapping[str, Any]) -> None:
    """Refuse the heads of a classifier that nobody has weighed. Raises ValueError."""
    if settings.get("unweighted"):
        labels = len(settings["head_weights"])
        raise ValueError(
            f"{folder} is a classifier with {labels} labels ({', '.join(settings['head_names'])}), and a reward is one "
            "number. To weigh its labels, name the class prl.rewards.MultiHead with `weights`, or write "
            f'{{"kind": "bradley_terry", "max_length": {settings["max_length"]}, "head_weights": [a number for each '
            f"label]}} into {folder}/prl_judge.json"
        )


@cache
def _tell_once(folder: Path, architecture: str, used: str, length: int, file: str) -> None:
    """Log which settings are used; the folder is read several times in a run."""
    if rank() == 0:
        log.warning(
            "%s has no prl_judge.json, so it is taken for a model that prl did not train: %s works as %s on texts "
            "of up to %d tokens. If prl trained it, copy that file anew. To set another length, write it: now it would "
            "be %s",
            *(folder, architecture or "a .gguf file", used, length, file),
        )
