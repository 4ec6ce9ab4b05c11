"""Settings of a judge or reward model that was not made by prl, and so has no prl_judge.json."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prl.config import ModelSource
from prl.distributed import rank
from prl.models.limits import most_positions
from prl.models.loading import read_config

log = logging.getLogger(__name__)

LONGEST = 4096
"""Most tokens of a text where the settings name no length: models for long texts would take the memory for them."""
_LANGUAGE_MODELS = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
"""Classes of transformers; most are called ...ForCausalLM, GPT-2's is GPT2LMHeadModel."""


def plain_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a judge for a model without prl_judge.json; None for a folder of anything else.

    A classifier with one label is a scalar reward model. A causal language model is a generative judge with the
    default template, which was not trained as one.

    Raises:
        ValueError: for a classifier with several labels.
    """
    if not (folder / "config.json").is_file():
        return None
    config = read_config(ModelSource(path=str(folder)))
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        kind = "bradley_terry"
    elif architecture.endswith("ForCausalLM") or architecture in _LANGUAGE_MODELS:
        kind = "generative"
    else:
        return None
    length = min(most_positions(config) or LONGEST, LONGEST)
    file = f'{{"kind": "{kind}", "max_length": {length}}}'
    if kind == "bradley_terry" and config.num_labels != 1:
        raise ValueError(
            f"{folder} is a classifier with {config.num_labels} labels, and a reward is one number. To weigh its "
            f'labels, write {file[:-1]}, "head_weights": [a number for each label]}} into {folder}/prl_judge.json'
        )
    _tell_once(folder, architecture, kind, length, file)
    return {"kind": kind, "max_length": length}


@cache
def _tell_once(folder: Path, architecture: str, kind: str, length: int, file: str) -> None:
    """Log which settings are used; the folder is read several times in a run."""
    if rank() == 0:
        used = "the reward model" if kind == "bradley_terry" else "a judge, with the default template and no training,"
        log.warning(
            "%s has no prl_judge.json, so it is taken for a model that prl did not train: %s works as %s on texts "
            "of up to %d tokens. If prl trained it, copy that file anew. To set another length, write it: now it would "
            "be %s",
            *(folder, architecture, used, length, file),
        )
