"""A language model with a scalar head: it writes about a response, and then scores it."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prl.config import ModelSource
from prl.models.critic import hidden_size
from prl.models.loading import load_causal_lm
from prl.models.logprobs import head_logprobs, hidden_states, placed_values
from prl.models.policy import model_inputs, response_logits, token_logprobs

SCORE_FILE = "score.safetensors"
"""Weights of the scalar head beside those of the language model."""


class ScoresAndText(NamedTuple):
    """What the model says of N rows."""

    logits: Tensor
    """[N, 1] score of each row, as models of transformers with one label call it."""
    nll: Tensor | None = None
    """[N] mean negative log-likelihood of the tokens that are learnt, 0 without any; None where nobody asked."""


class LanguageScorer(nn.Module):
    """A causal language model whose last hidden state also gives a score, as in Themis (2310.01045).

    Args:
        language: causal language model.
    """

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.language, self.config = language, language.config
        self.score = nn.Linear(hidden_size(language), 1, bias=False)
        nn.init.normal_(self.score.weight, std=getattr(language.config, "initializer_range", 0.02))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, learnt: Tensor | None = None, **inputs: Any
    ) -> ScoresAndText:
        """Score rows at their last token that is no padding, and read the likelihood of what they say.

        Args:
            input_ids: [N, S] right padded.
            attention_mask: [N, S].
            learnt: [N, S] bool, tokens whose likelihood counts; None computes none.
            inputs: further arguments of the model.
        """
        hidden = hidden_states(self.language, {"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        scores = self.score(hidden.to(self.score.weight.dtype))
        last = attention_mask.long().sum(1) - 1
        at_end = scores[torch.arange(len(last), device=last.device), last]
        return ScoresAndText(at_end, None if learnt is None else self._nll(hidden, input_ids, attention_mask, learnt))

    def _nll(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, learnt: Tensor) -> Tensor:
        targets, mask = input_ids[:, 1:], learnt[:, 1:]
        if self.language._prl_head_is_last:
            found, _ = head_logprobs(self.language, hidden[:, :-1][mask], targets[mask])
            logprobs = placed_values(found, mask)
        else:
            logits = response_logits(self.language, input_ids, attention_mask.bool(), targets.shape[1])
            logprobs = token_logprobs(logits, targets, mask)
        return -logprobs.sum(1) / mask.sum(1).clamp(min=1)


def read_rows(model: LanguageScorer, input_ids: Tensor, attention_mask: Tensor, learnt: Tensor | None) -> ScoresAndText:
    """Read N rows: ids and masks [N, S], right padded."""
    return model(**model_inputs(input_ids, attention_mask), learnt=learnt)


def load_language_scorer(source: ModelSource, *, new_head: bool = True) -> LanguageScorer:
    """Load a language model with its scalar head, or with a new one.

    Raises:
        ValueError: when the folder has no scalar head and a new one is no good.
    """
    model = LanguageScorer(load_causal_lm(source))
    path = Path(str(source.path)).expanduser() / SCORE_FILE
    if path.is_file():
        model.score.load_state_dict(load_file(path))
    elif not new_head:
        raise ValueError(f"{path} does not exist, so this is no reward model that calls tools; export it again")
    return model


def save_score_head(model: LanguageScorer, folder: str | Path) -> None:
    """Write the scalar head beside the language model."""
    save_file({"weight": model.score.weight.detach().cpu().contiguous()}, Path(folder) / SCORE_FILE)
