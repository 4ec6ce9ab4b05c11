"""A Bradley-Terry scalar reward model in the place of a judge: p(u > v) = sigma(r(u) - r(v))."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prl.judge.differences import DifferenceJudge
from prl.models.loading import save_model
from prl.rewards.folder import JUDGE_FILE, discard_passport
from prl.rewards.scalar import ScalarReward


class BradleyTerryJudge(DifferenceJudge, ScalarReward):
    """Margins from a scalar reward: antisymmetric by construction, and independent of the other response.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers loads, with the judge's settings beside it."""
        assert self.encoder is not None, "call load() first"
        save_bradley_terry(
            *(folder, self.model, self.encoder.tokenizer, self.encoder.max_length),
            head_weights=self.head_weights,
            head_names=self.head_names,
        )


def save_bradley_terry(
    folder: str | Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    merge: bool = True,
    head_weights: Sequence[float] = (1.0,),
    head_names: Sequence[str] = (),
) -> None:
    """Write a folder that AutoModelForSequenceClassification loads, with the judge's settings beside it.

    The model has a label for each head; `merge` is that of `save_model`.
    """
    discard_passport(folder)
    save_model(model, tokenizer, folder, merge=merge)
    settings: dict[str, Any] = {"kind": "bradley_terry", "max_length": max_length}
    if tuple(head_weights) != (1.0,) or head_names:
        settings["head_weights"] = list(head_weights)
    if head_names:
        settings["head_names"] = list(head_names)
    (Path(folder) / JUDGE_FILE).write_text(json.dumps(settings, indent=2) + "\n")
