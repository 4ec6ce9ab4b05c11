"""Judges that answer Yes or No: PaCo-Reward's consistency of pictures, and a comparison of two for Pref-GRPO."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from prl.config import ModelSource
from prl.diffusion.rewards.base import ImageJudge, ImageReward
from prl.diffusion.rewards.vision_language import load_vision_language, question_of
from prl.models.loading import freeze


def yes_no_loss(losses: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Compute alpha l_0 + (1 - alpha) / (n - 1) (l_1 + ... + l_(n - 1)) for each answer: [N].

    This is equation 1 of PaCo-RL (2512.04784). l_i is -log p of token i of n; the first says Yes or No, the others are
    reasons. alpha = 1 / n is the plain mean. An answer of one token has the loss l_0, whatever alpha is. The authors'
    trainer weighs the first token by alpha / n.

    Args:
        losses: [N, T] of the tokens.
        mask: [N, T] true at tokens, of which each answer has one at least, first.
        alpha: weight of the first token.
    """
    first, others = losses[:, 0], (losses * mask)[:, 1:].sum(1)
    count = mask[:, 1:].sum(1)
    return torch.where(count > 0, alpha * first + (1 - alpha) * others / count.clamp(min=1), first)


class ConsistencyReward(ImageReward):
    """How consistent the figures of a picture are: the mean of P(Yes) over all pairs of them (PaCo-RL, 2512.04784).

    A picture is a grid of figures, such as four views of a subject. P(Yes) = sigma(l_yes - l_no) by the first token
    that a vision-language model answers to the question whether two of them are consistent.

    Args:
        path: folder of a judge that `YesNoJudgeModule` trained, or another vision-language model, by folder or hub id.
        rows: rows of the grid.
        columns: its columns.
        question: what is asked of two figures, where {prompt} stands for the prompt; that of the folder when null.
        batch_size: pairs of figures of one pass.
        dtype: type of the weights, such as bfloat16.

    Raises:
        ValueError: for a grid of less than two figures, or a model without a question.
    """

    def __init__(
        self,
        path: str,
        rows: int = 2,
        columns: int = 2,
        question: str | None = None,
        batch_size: int = 64,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        _check_batch_size("ConsistencyReward", batch_size)
        self.batch_size = batch_size
        if rows < 1 or columns < 1 or rows * columns < 2:
            raise ValueError(f"ConsistencyReward has a grid of {rows} x {columns}; expected two figures at least")
        self.path, self.rows, self.columns = path, rows, columns
        self.question = _asked("ConsistencyReward", path, question)
        self.model: Any = freeze(load_vision_language(ModelSource(path=path, dtype=dtype)))  # type: ignore[arg-type]

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures: [N]. Raises ValueError for pictures that the grid does not divide."""
        height, width = images.shape[-2:]
        if height % self.rows or width % self.columns:
            raise ValueError(f"pictures of {height}x{width} have no grid of {self.rows} x {self.columns} equal figures")
        figures = [part for row in images.chunk(self.rows, -2) for part in row.chunk(self.columns, -1)]
        questions = [filled(self.question, prompt) for prompt in prompts]
        found = [
            _in_batches(self.model, list(zip(first, second, strict=True)), questions, self.batch_size).sigmoid()
            for first, second in combinations(figures, 2)
        ]
        return torch.stack(found).mean(0)


class VisionJudge(ImageJudge):
    """The log-odds of Yes against No that a vision-language model gives to whether the first of two pictures is better.

    Args:
        path: folder or hub id of the model.
        question: what is asked of two pictures, where {prompt} stands for the prompt; that of a folder of
            `YesNoJudgeModule` when null.
        batch_size: pairs of one pass.
        dtype: type of the weights, such as bfloat16.

    Raises:
        ValueError: for a model without a question.
    """

    def __init__(self, path: str, question: str | None = None, batch_size: int = 64, dtype: str = "float32") -> None:
        super().__init__()
        _check_batch_size("VisionJudge", batch_size)
        self.batch_size = batch_size
        self.path, self.question = path, _asked("VisionJudge", path, question)
        self.model: Any = freeze(load_vision_language(ModelSource(path=path, dtype=dtype)))  # type: ignore[arg-type]

    @torch.no_grad()
    def compare(self, first: Tensor, second: Tensor, prompts: Sequence[str]) -> Tensor:
        """Ask about each pair: [N]."""
        questions = [filled(self.question, prompt) for prompt in prompts]
        return _in_batches(self.model, list(zip(first, second, strict=True)), questions, self.batch_size)


def _in_batches(model: Any, pairs: list[tuple[Tensor, Tensor]], questions: list[str], size: int) -> Tensor:
    """Ask about pairs, so many in a pass: log-odds [N]."""
    starts = range(0, len(pairs), size)
    return torch.cat([model.log_odds(pairs[at : at + size], questions[at : at + size]) for at in starts])


def _check_batch_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name}.batch_size is {size}; expected at least 1")


def _asked(name: str, path: str, question: str | None) -> str:
    if (found := question or question_of(path)) is None:
        raise ValueError(
            f"{name}.question is null, and {path} was not trained by YesNoJudgeModule, which would have left its own; "
            "set it, such as: Is the first picture a better picture of '{prompt}' than the second? Answer Yes or No."
        )
    return found


def filled(question: str, prompt: str) -> str:
    """Put a prompt into a question; other braces stay."""
    return question.replace("{prompt}", prompt)
