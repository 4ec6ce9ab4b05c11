"""Responses of players to the prompts of an arena: read from files, or sampled, and kept beside the comparisons."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt
from prl.data.rows.records import RowError, prompt_key
from prl.rollouts.prompts import PromptSampler
from prl.system.outputs import writing


class Responses(NamedTuple):
    """The responses of one player."""

    texts: list[str]
    """P responses."""
    finished: list[bool]
    """True for a response that ended before the length limit; responses of a file count as finished."""


def responses_in(rows: Sequence[Any], records: Sequence[AnchoredPrompt], path: str | Path) -> dict[str, Responses]:
    """Read the responses of a file: one of each prompt in order, or rows that name their prompt.

    Args:
        rows: of each line a text, a list with one assistant message, or an object with `response`, and with `prompt`
            and `model` where it has them; a file of several models has several players.
        records: P prompts.
        path: of the file, for errors.

    Returns:
        Name of each model, empty where rows name none -> its responses, in the order of the prompts.

    Raises:
        ValueError: naming the line, or the first prompt without a response.
    """
    of_model: dict[str, list[tuple[str | None, str]]] = {}
    names_prompts: bool | None = None
    for number, row in enumerate(rows, 1):
        where = f"{path}, line {number}"
        asked, model = (row.get("prompt"), row.get("model")) if isinstance(row, dict) else (None, None)
        if model is not None and not isinstance(model, str):
            raise ValueError(f"{where}: model is {model!r}; expected a name")
        if names_prompts not in (None, asked is not None):
            own, before = ("no prompt", "one") if names_prompts else ("a prompt", "none")
            raise ValueError(f"{where} has {own}, and the lines before have {before}; give each line one, or none")
        names_prompts = asked is not None
        text = _text(row.get("response") if isinstance(row, dict) else row, where)
        of_model.setdefault(model or "", []).append((None if asked is None else _key(asked, where), text))
    texts = {model: _in_order(pairs, records, path, model) for model, pairs in of_model.items()}
    return {model: Responses(each, [True] * len(each)) for model, each in texts.items()}


def _in_order(
    pairs: Sequence[tuple[str | None, str]], records: Sequence[AnchoredPrompt], path: str | Path, model: str
) -> list[str]:
    """Put responses into the order of the prompts."""
    who = f"{path}{f' of the model {model}' if model else ''}"
    keys = [key for key, _ in pairs]
    if all(key is None for key in keys):
        if len(pairs) != len(records):
            raise ValueError(f"{who} has {len(pairs)} responses to {len(records)} prompts; expected one for each")
        return [text for _, text in pairs]
    found: dict[str | None, list[str]] = {}
    for key, text in pairs:
        if text not in found.setdefault(key, []):  # a response that met several anchors has several rows
            found[key].append(text)
    for number, record in enumerate(records, 1):
        own = found.get(prompt_key(record.prompt), [])
        if len(own) != 1:
            what = "no response" if not own else f"{len(own)} different responses"
            raise ValueError(f"{who} has {what} to prompt {number}; expected one for each prompt")
    return [found[prompt_key(record.prompt)][0] for record in records]


def _key(prompt: Any, where: str) -> str:
    try:
        (record,) = AnchoredPrompt.parse({"prompt": prompt})
    except (RowError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    return prompt_key(record.prompt)


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        content = value[0].get("content")
        if value[0].get("role") == "assistant" and isinstance(content, str):
            return content.strip()
    raise ValueError(
        f"{where}: the response is {str(value)[:60]!r}; expected a text, a list with one assistant message, or an "
        "object with `response` that is one of them"
    )


def sample_responses(
    player: str,
    source: ModelSource,
    sampling: Sampling,
    records: Sequence[AnchoredPrompt],
    *,
    batch: int,
    prompts: str,
    **settings: Any,
) -> Responses:
    """Sample one response of a policy to each prompt.

    Args:
        player: its name, for the progress bar.
        source: the policy.
        sampling: length limit and temperature.
        records: P prompts.
        batch: responses sampled together.
        prompts: name of their file, for errors.
        settings: of `PromptSampler`: max_prompt_length, seed, keep_thoughts.

    Raises:
        ValueError: when the model is missing, or a prompt is too long.
    """
    sampler = PromptSampler(source, sampling, records, name=prompts, **settings)
    found = Responses([], [])
    for start in tqdm(range(0, len(records), batch), desc=f"responses of {player}", unit="batch", delay=1):
        rollout = sampler.sample(start, min(batch, len(records) - start))
        found.texts.extend(rollout.texts)
        found.finished.extend(rollout.finished.tolist())
    return found


def write_responses(path: Path, records: Sequence[AnchoredPrompt], responses: Responses) -> None:
    """Write the responses of a player, a line for each prompt: prompt, response, finished."""
    with writing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for record, text, finished in zip(records, *responses, strict=True):
            row = {"prompt": list(record.prompt), "response": text, "finished": finished}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_responses(path: Path) -> Responses | None:
    """Read what `write_responses` wrote; None where there is no such file."""
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return Responses([row["response"] for row in rows], [row["finished"] for row in rows])


def hash_of(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hash a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
