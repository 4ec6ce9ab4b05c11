"""Files of a generative judge: its settings beside the weights, and what they say of its template."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prl.config import Reasoning
from prl.judge.encoding import ComparisonEncoder
from prl.judge.template import JudgeTemplate
from prl.models.loading import save_model
from prl.rewards.folder import JUDGE_FILE, TEMPLATE_FILE, discard_passport


def saved_template(settings: dict[str, Any], folder: str | Path) -> JudgeTemplate:
    """Read the template of a judge's settings file; the default one where a model was not trained as a judge.

    Raises:
        ValueError: naming the file, when it is none.
    """
    if "template" not in settings:
        return JudgeTemplate()
    try:
        return JudgeTemplate(**{**settings["template"], "verdicts": tuple(settings["template"]["verdicts"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{Path(folder) / JUDGE_FILE} is damaged: {error}") from None


def save_judge(
    folder: str | Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoder: ComparisonEncoder,
    *,
    temperature: float = 1.0,
    position_offset: float = 0.0,
    merge: bool = True,
    reasoning: Reasoning | None = None,
) -> None:
    """Write weights, tokenizer and the judge's settings; loads with plain transformers as a causal LM.

    See `save_model` for `merge`. With `reasoning` the folder is one of a judge that thinks by these settings.
    """
    discard_passport(folder)
    save_model(model, tokenizer, folder, merge=merge)
    (Path(folder) / TEMPLATE_FILE).write_text(encoder.template.text, encoding="utf-8")  # a copy for other programs
    settings = judge_settings(encoder, temperature, position_offset, reasoning)
    (Path(folder) / JUDGE_FILE).write_text(json.dumps(settings, indent=2) + "\n")


def judge_settings(
    encoder: ComparisonEncoder, temperature: float, position_offset: float, reasoning: Reasoning | None = None
) -> dict[str, Any]:
    """Return the contents of a generative judge's settings file."""
    return {
        "kind": "generative",
        "template": plain_json(asdict(encoder.template)),
        "template_fingerprint": encoder.template.fingerprint,
        "verdict_ids": list(encoder.verdict_ids),
        "max_length": encoder.max_length,
        "temperature": temperature,
        **({"position_offset": position_offset} if position_offset else {}),
        **({} if reasoning is None else {"reasoning": asdict(reasoning)}),
    }


def plain_json(value: Any) -> Any:
    """Return a value as it is read back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))
