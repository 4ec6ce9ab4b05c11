"""A Bradley-Terry scalar reward model in the place of a judge: p(u > v) = sigma(r(u) - r(v))."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.config import ModelSource
from prl.data.encoding import ConversationEncoder, encode_prompt
from prl.data.records import Conversation
from prl.data.tokens import right_pad
from prl.judge.base import (
    JUDGE_FILE,
    Comparison,
    PairwiseJudge,
    discard_passport,
    judge_folder,
    read_judge_file,
)
from prl.models.limits import check_fits
from prl.models.loading import freeze, load_scalar_classifier, load_tokenizer, save_model
from prl.models.policy import float32_outputs, in_own_type, model_inputs


def scalar_rewards(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """r(x, y) of each row: [N, S] -> [N] float32.

    Read where transformers' own class reads it, at the last token that is not the padding id. Where padding and end of
    sequence share an id, that is the token before the end.
    """
    return model(**model_inputs(input_ids, attention_mask)).logits[:, 0].float()


class BradleyTerryJudge(PairwiseJudge):
    """Margins from a scalar reward: antisymmetric by construction, blind to what stands beside a response.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__()
        self.path, self.dtype, self.batch_size = path, dtype, batch_size
        self.folder = path
        self.model: Any = None
        self.encoder: ConversationEncoder | None = None

    def model_source(self) -> ModelSource | None:
        """The model's folder."""
        return ModelSource(path=judge_folder(self.path), dtype=self.dtype)  # type: ignore[arg-type]

    def load(self) -> None:
        """Read weights and tokenizer; safe to call twice."""
        if self.model is not None:
            return
        self.folder = judge_folder(self.path)
        settings = read_judge_file(self.folder)
        if settings["kind"] != "bradley_terry":
            raise ValueError(f"{self.path} holds a {settings['kind']} judge, not a Bradley-Terry one")
        source = ModelSource(path=self.folder, dtype=self.dtype)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(source)
        check_fits(source, tokenizer, settings["max_length"], role="judge", setting=f"max_length in its {JUDGE_FILE}")
        self.encoder = ConversationEncoder(tokenizer, settings["max_length"], "truncate")
        self.model = freeze(load_scalar_classifier(source, new_head=False))

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the chat template refuses."""
        assert self.encoder is not None, "call load() first"
        encode_prompt(self.encoder.tokenizer, prompt)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers loads, with the judge's settings beside it."""
        assert self.encoder is not None, "call load() first"
        save_bradley_terry(folder, self.model, self.encoder.tokenizer, self.encoder.max_length)

    def cut_share(self) -> float:
        """Share of the responses read so far that were longer than the model's `max_length`."""
        return self.encoder.counts.cut_share if self.encoder is not None else 0.0

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """r(u) - r(v) for each comparison; every response is scored once."""
        prompts = [prompt for prompt, _, _ in comparisons for _ in range(2)]
        scores = self.rewards(prompts, [text for _, first, second in comparisons for text in (first, second)])
        return scores[0::2] - scores[1::2]

    @torch.no_grad()
    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """r(x, y) of each response; one that is there twice is read once: [N] float32."""
        assert self.encoder is not None, "call load() first"
        texts = [(json.dumps(prompt), text) for prompt, text in zip(prompts, responses, strict=True)]
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = [self.encoder.encode_response(json.loads(prompt), text) for prompt, text in index]
        rewards = self._rewards([row["ids"] for row in rows if row])
        return rewards[torch.tensor([index[text] for text in texts], dtype=torch.long, device=rewards.device)]

    def _rewards(self, rows: list[list[int]]) -> Tensor:
        assert self.encoder is not None
        device = next(self.model.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        rewards = torch.empty(len(rows), device=device)
        # In its own type, in which it was measured, with the reward itself in float32.
        with in_own_type(device), float32_outputs(getattr(self.model, "score", None)):
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                ids, mask = (
                    each.to(device)
                    for each in right_pad([rows[i] for i in batch], int(self.encoder.tokenizer.pad_token_id))
                )
                rewards[torch.tensor(batch, device=device)] = scalar_rewards(self.model, ids, mask)
        return rewards


def save_bradley_terry(
    folder: str | Path, model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, *, merge: bool = True
) -> None:
    """Write a folder that AutoModelForSequenceClassification loads (one label), with the judge's settings beside it.

    `merge` is that of `save_model`.
    """
    discard_passport(folder)
    save_model(model, tokenizer, folder, merge=merge)
    settings = {"kind": "bradley_terry", "max_length": max_length}
    (Path(folder) / JUDGE_FILE).write_text(json.dumps(settings, indent=2) + "\n")
