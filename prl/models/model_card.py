"""Model card (README.md) of an exported folder: the model, how to load it, and its measurements.

A card is signed with a hash of its text. An edited card no longer fits its hash and is left alone.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from prl import __version__
from prl.models.loading import is_hub_id
from prl.system.outputs import write_text

log = logging.getLogger(__name__)

CARD = "README.md"
_PAPER = "https://arxiv.org/abs/2504.04950"
_MEASURED = "\n## Measured\n"


@dataclass(frozen=True)
class Kind:
    """Kind of an exported folder, as cards and the hub describe it."""

    title: str
    pipeline_tag: str
    auto_class: str
    tags: tuple[str, ...] = ("prl", "pairwise-rl")
    library: str = "transformers"

    @property
    def is_judge(self) -> bool:
        """Whether the folder's model compares responses."""
        return "reward-model" in self.tags


_JUDGE_TAGS = ("prl", "pairwise-rl", "reward-model")
KINDS = {
    "generative": Kind("Generative pairwise judge", "text-generation", "AutoModelForCausalLM", _JUDGE_TAGS),
    "bradley_terry": Kind(
        "Bradley-Terry reward model", "text-classification", "AutoModelForSequenceClassification", _JUDGE_TAGS
    ),
    "general_preference": Kind(
        "General preference model", "text-classification", "AutoModelForSequenceClassification", _JUDGE_TAGS
    ),
    "tool_reward": Kind("Reward model that calls tools", "text-generation", "AutoModelForCausalLM", ("prl",)),
    "control": Kind("Policy of a control task", "reinforcement-learning", "", ("prl",), "prl"),
    "pictures": Kind("Model of pictures", "text-to-image", "", ("prl",), "diffusers"),
    "personalized_pictures": Kind("Model of pictures for users", "text-to-image", "", ("prl",), "diffusers"),
    "image_reward": Kind("Reward model of pictures", "", "", ("prl", "image-reward"), "prl"),
    "image_judge": Kind("Judge of pictures", "image-text-to-text", "AutoModelForImageTextToText", ("prl",)),
    "noisy_reward": Kind("Reward model of noisy latents", "", "", ("prl", "noisy-image-reward"), "prl"),
    None: Kind("Language model", "text-generation", "AutoModelForCausalLM"),
}
"""Kind of a judge, of a policy for control or of a model of pictures, or None for language models -> the card."""

_INPUT = """
It reads one response at a time, in a row of three parts: the prompt as the chat template writes it up to where a
response begins (without a chat template its texts, an empty line between them), the response by itself, no white space
at its ends, and the end-of-sequence token. That is not the whole dialogue as a chat template writes it, which may end
otherwise. `prl_judge.json` holds the longest row, `max_length`.

```python
ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
ids += tokenizer(response.strip(), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
READ
```
"""
_REWARD = "reward = model(input_ids=torch.tensor([ids])).logits[0] @ torch.tensor({weights})"
_EMBEDDING = """embedding = model(input_ids=torch.tensor([ids])).logits[0, :{dim}]{length}
# u is better than v with probability sigmoid(score / {tau}){blocks}
score = (u[0::2] * v[1::2] - u[1::2] * v[0::2]).sum()"""

_CONTROL = """```python
from prl.control import load_policy

policy = load_policy(FOLDER)
action = policy.act(states, actions, steps)  # the past of N episodes: [N, T, ...]; the last action is not looked at
```
"""

_PICTURES = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(FOLDER)
```

Parts that `model_index.json` has as null, such as `vae` of a model of pixels, are given to `from_pretrained` as None.
"""
_PERSONALIZED = f"""{_PICTURES}
That is the base, which knows no users. What was learnt of them is `user_attention.safetensors`, which
`prl.diffusion.user_attention.load_user_attention` gives to the network; `prl.diffusion.users.Users` reads who they are.
"""
_IMAGE_REWARD = """```python
from prl.diffusion.rewards import LearnedImageReward

rewards = LearnedImageReward(FOLDER).score(images, prompts)  # images from -1 to 1: [N, C, H, W]
```
"""
_NOISY_REWARD = """```python
from prl.diffusion.guidance import RewardGuided
from prl.diffusion.rewards import NoisyLatentReward

reward = NoisyLatentReward(FOLDER).for_prompts(process, prompts)  # process: of the pipeline, denoiser.process
guided = RewardGuided(process, predict, reward, weight=1.0)  # in place of predict(noisy, time) of a sampler
```
"""

_IMAGE_JUDGE = """```python
from prl.diffusion.rewards import ConsistencyReward

rewards = ConsistencyReward(FOLDER).score(images, prompts)  # images from -1 to 1, grids of figures: [N, C, H, W]
```

Without prl it is an ordinary model; `question.json` has the question that it answers with Yes or No.
"""

_FIGURES = {
    "accuracy": "accuracy, both orders averaged",
    "accuracy_shorter_wins": "accuracy where the shorter response is better",
    "baseline_longer": "for comparison: longer is better",
    "nll": "negative log-likelihood, nats",
    "ece": "calibration error",
    "temperature": "fitted temperature",
    "order_gap": "order gap",
    "flip_rate": "flip rate",
    "canary_rate": "wins of the best attack without content",
    "held_out_attack_rate": "wins of the best attack unknown to its training",
}
"""Figures of a judge's report -> labels in the card; docs/judge.md explains all figures."""


def write_card(folder: str | Path, kind: str | None, settings: Mapping[str, Any], *, adapter: bool = False) -> None:
    """Write the card of an exported folder, unless the folder has an edited card.

    Args:
        folder: the exported folder.
        kind: a key of KINDS.
        settings: the run's configuration as plain values, with `model` and `data`.
        adapter: whether the folder holds adapters alone.
    """
    words, model = KINDS[kind], settings["model"]
    sources = model.get("init_args") or {}
    base = _path(sources.get("model") or sources.get("policy"))
    data = (settings.get("data") or {}).get("init_args") or {}
    paths = {split: path for split in ("train", "validation") if (path := _path(data.get(split))) is not None}
    metadata = ModelCardData(
        library_name="peft" if adapter else words.library,
        base_model=base_model_id(base),
        datasets=sorted({path for path in paths.values() if is_data_set(path)}) or None,
        tags=[*words.tags, *(["lora"] if adapter else [])],
        pipeline_tag=words.pipeline_tag or None,
    )
    module = model["class_path"].rpartition(".")[2]
    lines = [f"---\n{metadata.to_yaml()}\n---\n", f"# {words.title}\n"]
    lines += [f"Trained by `{module}` of [prl]({_PAPER}) {__version__}"]
    names = [
        f"{path if is_data_set(path) else ' '.join(Path(path).name.split())} ({split})" for split, path in paths.items()
    ]
    lines[-1] += f" on {', '.join(names)}.\n" if names else ".\n"
    lines += ["## Load\n", _loading(words, folder), *_told(folder)]
    _put(Path(folder) / CARD, "\n".join(lines))


def copy_card(source: str | Path | None, folder: str | Path, kind: str | None) -> None:
    """Copy the card of a judge's source folder to the folder where the judge was saved, adapters merged.

    Measured figures are left out; the passport adds them. Without a card, a new card describes the folder. An edited
    card is copied unchanged, unless it would replace another edited card.

    Args:
        source: source folder of the judge; None for a judge made in memory.
        folder: folder where the judge was saved.
        kind: a key of KINDS.
    """
    old, new = None if source is None else Path(source) / CARD, Path(folder) / CARD
    if old is None or not old.is_file():
        words = KINDS[kind]
        metadata = ModelCardData(library_name="transformers", tags=[*words.tags], pipeline_tag=words.pipeline_tag)
        text = f"---\n{metadata.to_yaml()}\n---\n\n# {words.title}\n\nSaved by [prl]({_PAPER}) {__version__}.\n\n"
        _put(new, f"{text}## Load\n\n{_loading(words, folder)}")
    elif (signed := _unsigned(old)) is not None:
        card = ModelCard(signed.partition(_MEASURED)[0])
        data: Any = card.data
        data.library_name, data.tags = "transformers", [tag for tag in data.tags if tag != "lora"]
        _put(new, str(card))
    elif not new.is_file() or _unsigned(new) is not None:
        shutil.copyfile(old, new)


def renew_figures(folder: str | Path, passport: Mapping[str, Any] | None) -> None:
    """Write a passport's figures into the card; None removes them. A missing or edited card is left alone."""
    path = Path(folder) / CARD
    if not path.is_file() or (text := _unsigned(path)) is None:
        return
    text = text.partition(_MEASURED)[0]
    _put(path, text if passport is None else text + _MEASURED + _figures(passport))


def was_edited(path: Path) -> bool:
    """Return whether a card differs from what prl wrote."""
    try:
        return _unsigned(path) is None
    except UnicodeDecodeError:
        return True


def is_data_set(path: str) -> bool:
    """Return whether a source of rows is a data set on the hub, not a file."""
    suffixes = (".jsonl", ".json", ".gz", ".csv", ".parquet")
    return is_hub_id(path) and not Path(path).is_file() and Path(path).suffix not in suffixes


def _path(source: Any) -> str | None:
    """Return the path of a model or data source; None for any other value, as in a class of the user's own."""
    path = source.get("path") if isinstance(source, Mapping) else None
    return path if isinstance(path, str) else None


def base_model_id(path: str | None) -> str | None:
    """Find the hub id of a model: its own, or the id in the card of a prl folder."""
    if path is None or is_hub_id(path):
        return path
    card = Path(path).expanduser() / CARD
    if not card.is_file():
        return None
    try:
        metadata = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, YAMLError):  # a card of another program
        return None
    return metadata.base_model if "prl" in (metadata.tags or []) else None


def _loading(words: Kind, folder: str | Path) -> str:
    written = {
        **{"control": _CONTROL, "pictures": _PICTURES, "personalized_pictures": _PERSONALIZED},
        **{"image_reward": _IMAGE_REWARD, "image_judge": _IMAGE_JUDGE, "noisy_reward": _NOISY_REWARD},
    }
    if found := next((text for kind, text in written.items() if words is KINDS[kind]), None):
        return found
    plain = f"""```python
from transformers import {words.auto_class}, AutoTokenizer

model = {words.auto_class}.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```
"""
    if not words.is_judge:
        return plain
    read = _reads_one(words, Path(folder) / "prl_judge.json")
    return f"""```python
from prl.judge import Judge

judge = Judge.from_pretrained(FOLDER)
verdict = judge.compare(["a prompt"], ["a response"], ["another one"])
verdict.win_prob  # probability that the first response is better, both orders read
```

Without prl it is an ordinary model{", whose input `prl_judge.json` describes" if read is None else ""}:

{plain}{"" if read is None else _INPUT.replace("READ", read)}"""


def _reads_one(words: Kind, path: Path) -> str | None:
    """Return the code that reads one response in a judge of single responses; None for other judges."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if words is KINDS["bradley_terry"]:
        return _REWARD.format(weights=settings.get("head_weights", [1.0]))
    if words is not KINDS["general_preference"] or "preference" not in settings:
        return None
    given = settings["preference"]
    blocks = ", before each block is weighed by what the numbers behind say at the last token of the prompt alone"
    return _EMBEDDING.format(
        dim=given["dim"],
        tau=given["tau"],
        length="  # then divided by its length" if given["normalize"] else "",
        blocks=blocks if given["prompt_head"] else "",
    )


def _told(folder: str | Path) -> list[str]:
    """Describe the inputs of the chat template besides the messages, if there are any."""
    path = Path(folder) / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8")).get("prl_chat") if path.is_file() else None
    if not told:
        return []
    variables = ", ".join(f"`{name}={value!r}`" for name, value in told["kwargs"].items()) or "no variables"
    return [
        f"The chat template was told {variables} beside the messages, and the date {told['date']} where it writes one; "
        "prl takes both from `tokenizer_config.json`, others have to be told.\n"
    ]


def _figures(passport: Mapping[str, Any]) -> str:
    data, report = passport["data"], passport["report"]
    rows = [f"| {words} | {_cell(report.get(name))} |" for name, words in _FIGURES.items()]
    return "\n".join(
        [
            "",
            f"On {report['num_pairs']} pairs of {data.get('file', 'a file')} "
            f"({report.get('num_prompts', 'unknown')} prompts), with 95 % intervals over prompts. "
            "`rm_passport.json` holds the whole report.",
            "",
            "| figure | value |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _cell(found: Any) -> str:
    if found is None:
        return "not measured"
    if isinstance(found, Mapping):
        return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found:.3f}"


# ---- the signature


def _signature(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"\n<!-- {digest}: prl renews this card as long as nobody edits it -->\n"


def _unsigned(path: Path) -> str | None:
    """Strip the signature from a card's text; None where the signature does not fit."""
    text, mark, end = path.read_text(encoding="utf-8").rpartition("\n<!-- ")
    return text if _signature(text) == mark + end else None


def _put(path: Path, text: str) -> None:
    if path.is_file() and _unsigned(path) is None:
        log.warning("%s was edited, so it is left as it is; delete it to have it written", path)
        return
    write_text(path, text + _signature(text))
