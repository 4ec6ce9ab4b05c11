"""A general preference model as a judge: embeddings of single responses, compared by a skew-symmetric score."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.data.encoding import encode_prompt
from prl.judge.base import Comparison, PairwiseJudge
from prl.models.critic import hidden_size
from prl.models.loading import save_model
from prl.objectives.skew_symmetric import SkewSymmetric
from prl.rewards.folder import JUDGE_FILE, discard_passport
from prl.rewards.scalar import ScalarModel
from prl.types import Conversation


class GeneralPreferenceJudge(PairwiseJudge, ScalarModel):
    """Margins s(u, v) / tau of a model that `GeneralPreference` trained (2410.02197).

    Antisymmetric to the last bit, so both orders say the same. Each response is read once, however often it is
    compared; with a prompt head each prompt once more. Preferences may go round in a circle.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    kind = "general_preference"
    needs_anchors = True
    antisymmetric = True
    operator = SkewSymmetric()
    """Comparison of two embeddings; `load` replaces it by the one in the folder."""

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the chat template refuses."""
        assert self.encoder is not None, "call load() first"
        encode_prompt(self.encoder.tokenizer, prompt)

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """Compute s(u, v) / tau of each comparison."""
        prompts = [prompt for prompt, _, _ in comparisons]
        both = [prompt for prompt in prompts for _ in range(2)]
        embedded = self.values(both, [text for _, *texts in comparisons for text in texts])
        return self.operator.margin(embedded[0::2], embedded[1::2], self._blocks(prompts))

    def _blocks(self, prompts: list[Conversation]) -> Tensor | None:
        """Compute what the prompt head says of each prompt: [N, dim / 2]; None without one."""
        if not self.operator.prompt_head:
            return None
        assert self.encoder is not None, "call load() first"
        keys = [json.dumps(prompt) for prompt in prompts]
        index = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        said = self._values([{"ids": self.encoder.encode_alone(json.loads(key))} for key in index])
        places = torch.tensor([index[key] for key in keys], dtype=torch.long, device=said.device)
        return self.operator.blocks(said, hidden_size(self.model))[places]  # type: ignore[index] # there is a head

    def _read_settings(self, settings: dict[str, Any]) -> None:
        self.operator = SkewSymmetric(**settings["preference"])

    def _shape(self) -> tuple[int, ...]:
        return (self.operator.outputs,)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers loads, with the judge's settings beside it."""
        assert self.encoder is not None, "call load() first"
        save_general_preference(
            folder, self.model, self.encoder.tokenizer, self.encoder.max_length, operator=self.operator
        )


def save_general_preference(
    folder: str | Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    operator: SkewSymmetric,
    merge: bool = True,
) -> None:
    """Write a folder that AutoModelForSequenceClassification loads, with the judge's settings beside it.

    Its labels are the numbers of the embedding, and behind them those of the prompt head; `merge` is that of
    `save_model`.
    """
    discard_passport(folder)
    save_model(model, tokenizer, folder, merge=merge)
    settings = {"kind": GeneralPreferenceJudge.kind, "max_length": max_length, "preference": asdict(operator)}
    (Path(folder) / JUDGE_FILE).write_text(json.dumps(settings, indent=2) + "\n")
