"""What the loop asks of any judge, generative, Bradley-Terry or a rule: both margins of a pair of responses."""

import json
from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prl.config import Reward
from prl.data.records import Conversation
from prl.json_files import read_object
from prl.judge.shapes import judge_fault
from prl.judge.source import RewardSource, against_anchors
from prl.model_card import renew_figures
from prl.models.loading import is_hub_id
from prl.rewards import mean_per_row, sequence_scores
from prl.types import PromptBatch, Scores, Verdict

JUDGE_FILE = "prl_judge.json"
TEMPLATE_FILE = "judge_template.jinja"
PASSPORT_FILE = "rm_passport.json"

Comparison = tuple[Conversation, str, str]
"""A prompt, the response shown first, the response shown second."""


class PairwiseJudge(RewardSource):
    """Compares two responses to a prompt. Boundary: text in, margins out; tokenizers may differ from the policy's."""

    @property
    def verdict_words(self) -> tuple[str, str]:
        """What the judge answers for "the response shown first is better" and "the one shown second is"."""
        return ("A", "B")

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the judge cannot read."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the judge as a folder. Raises ValueError for one that has no files."""
        raise ValueError(f"{type(self).__name__} has no weights to write")

    @abstractmethod
    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        """z(u, v) for each (prompt, response shown first, response shown second): [N] float32; NaN where it failed."""

    def score(self, batch: PromptBatch, responses: list[str], settings: Reward) -> Scores:
        """The mean reward of each response over the anchors that it could be compared with, in both orders."""
        verdict, row_of = against_anchors(self.compare, batch, responses)
        values = sequence_scores(verdict, settings.mapping, max_log_odds=settings.max_log_odds)
        return Scores(mean_per_row(values, row_of, len(batch)), verdict, row_of)

    @torch.no_grad()
    def compare(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Judge every pair in both orders.

        Equal comparisons are read once: cheaper, and p(y > y) is 1/2 to the last bit whatever the batch layout.

        Args:
            prompts: N conversations as messages.
            a: N responses.
            b: N responses to compare them with.

        Raises:
            ValueError: when the three lists differ in length.
        """
        if not len(prompts) == len(a) == len(b):
            raise ValueError(f"{len(prompts)} prompts, {len(a)} responses a and {len(b)} responses b; expected as many")
        keys = [json.dumps(prompt) for prompt in prompts]
        readings = [*zip(keys, a, b, strict=True), *zip(keys, b, a, strict=True)]
        index = {reading: i for i, reading in enumerate(dict.fromkeys(readings))}
        margins = self.margins([(json.loads(key), first, second) for key, first, second in index])
        both = margins[torch.tensor([index[reading] for reading in readings], dtype=torch.long, device=margins.device)]
        return Verdict(both[: len(a)], both[len(a) :])


def judge_kind(folder: str | Path) -> str | None:
    """Kind of the judge in a folder; None where there is none."""
    return read_judge_file(folder)["kind"] if (Path(folder) / JUDGE_FILE).is_file() else None


def judge_folder(path: str | Path) -> str:
    """The local folder of a judge: `path` itself, or what the hub holds under this id.

    The hub is asked once per process and kept in Hugging Face's cache; HF_HUB_OFFLINE=1 reads the cache alone.

    Raises:
        ValueError: when the hub has no such judge, or cannot be reached and the cache has none.
    """
    return _download(str(path)) if is_hub_id(str(path)) else str(path)


@cache
def _download(hub_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
    except Exception as error:  # the hub client raises many unrelated classes
        raise ValueError(
            f"{hub_id} is neither a folder here nor a judge on the hub (looked for {Path(hub_id).absolute()}; "
            f"{type(error).__name__}: {error})"
        ) from None


def read_judge_file(folder: str | Path) -> dict[str, Any]:
    """The judge's own settings beside its weights.

    Raises:
        ValueError: when the folder or the file is missing, or the file is damaged.
    """
    path = Path(folder) / JUDGE_FILE
    if path.is_file():
        try:
            settings = {"kind": None, **read_object(path)}
            wrong = judge_fault(settings)
        except ValueError as error:
            wrong = str(error)
        if wrong is not None:
            raise ValueError(f"{path} is damaged ({wrong}); export the judge again, or copy the file anew")
        return settings
    if (path.parent / "model" / JUDGE_FILE).is_file():
        raise ValueError(f"{folder} is the folder of a run; its judge is in {path.parent / 'model'}")
    if path.parent.suffix == ".ckpt":
        raise ValueError(
            f"{folder} is a checkpoint; `prl export --checkpoint {folder} --output DIR` makes a judge of it"
        )
    if not path.parent.exists():
        raise ValueError(f"judge folder {folder} does not exist; give the folder that training or `prl export` wrote")
    raise ValueError(
        f"{path} does not exist: {folder} is not a judge. Train one with "
        "`prl fit --config configs/quickstart/generative_reward.yaml`, or give the folder it wrote"
    )


def discard_passport(folder: str | Path) -> None:
    """Take away the passport of the weights that are about to be replaced, and its figures from the card.

    Raises:
        ValueError: when the folder is a file.
    """
    if Path(folder).is_file():
        raise ValueError(f"{folder} is a file; expected a folder, new or of a judge that is to be replaced")
    (Path(folder) / PASSPORT_FILE).unlink(missing_ok=True)
    renew_figures(folder, None)
