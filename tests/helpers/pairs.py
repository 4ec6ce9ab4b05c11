"""A world in which the better response is known: its quality is the number of plus signs, whatever its length."""

import math
import random

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from prl.data.rows.records import PreferencePair
from prl.judge.base import Comparison
from tests.helpers.tiny import PlantedJudge


def response(quality: int, length: int) -> str:
    return "+" * quality + "x" * max(length - quality, 1)


def labelled_pairs(
    number: int, seed: int = 0, per_prompt: int = 2, sure: float = 1.0, growth: int = 4
) -> list[PreferencePair]:
    """Pairs labelled by an annotator who is as unsure as the difference in quality is small.

    Args:
        number: of pairs.
        seed: of every draw.
        per_prompt: pairs of one prompt.
        sure: the annotator's log-odds per plus sign of difference.
        growth: characters that a plus sign brings along, so that a judge of lengths is right more often than a coin.
    """
    draw = random.Random(seed)
    pairs = []
    for row in range(number):
        q, r = draw.sample(range(1, 8), 2)
        first, second = (response(each, 20 + growth * each + draw.randint(-8, 8)) for each in (q, r))
        if draw.random() > 1 / (1 + math.exp(sure * (r - q))):
            first, second = second, first
        prompt = [{"role": "user", "content": f"prompt {row // per_prompt}"}]
        pairs.append(PreferencePair(prompt, first, second, extra={"source": f"half {row % 2}"}))
    return pairs


class QualityJudge(PlantedJudge):
    """Sees quality: a margin of `scale` per plus sign of difference, and of `bias` for the first place."""

    def __init__(self, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale, self.bias = scale, bias

    def rule(self, first: str, second: str) -> float:
        return self.scale * (first.count("+") - second.count("+")) + self.bias


class GuessingJudge(PlantedJudge):
    """Result of training on shuffled labels: a firm opinion on every text, unrelated to its worth."""

    def rule(self, first: str, second: str) -> float:
        return 4 * (random.Random(first).random() - random.Random(second).random())


class CircleJudge(PlantedJudge):
    """Rock, paper, scissors: lengths 0, 1 and 2 modulo 3 beat each other in a circle."""

    def rule(self, first: str, second: str) -> float:
        return {0: 0.0, 1: 2.0, 2: -2.0}[(len(first) - len(second)) % 3]


class RingJudge(PlantedJudge):
    """Prefers up to `size // 2` more plus signs, counted round a ring of odd `size`: no response is the best of all."""

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.size = size

    def rule(self, first: str, second: str) -> float:
        ahead = (first.count("+") - second.count("+")) % self.size
        return 0.0 if ahead == 0 else 1.0 if ahead <= self.size // 2 else -1.0


class UnmaskedJudge(QualityJudge):
    """Knows quality, but reads the padding of its batch: every column of it adds to the margin."""

    def margins(self, comparisons: list[Comparison]) -> Tensor:
        widths = torch.tensor([len(first) + len(second) for _, first, second in comparisons])
        return super().margins(comparisons) + 0.01 * (widths.max() - widths)


class FittedJudge(PlantedJudge):
    """A scalar reward that was trained: logistic regression of the labels of pairs on features of the texts.

    Two of them tell quality and length, the others are noise: what a judge of great capacity learns wrong labels by.
    """

    def __init__(self, pairs: list[PreferencePair]) -> None:
        super().__init__()
        differences = torch.stack([self.features(p.chosen) - self.features(p.rejected) for p in pairs])
        targets = torch.tensor([p.preference for p in pairs])
        self.weights = torch.zeros(differences.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=100, line_search_fn="strong_wolfe")

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(differences @ self.weights, targets)
            loss.backward()
            return loss

        optimizer.step(step)

    def features(self, text: str) -> Tensor:
        draw = random.Random(text)
        return torch.tensor([text.count("+"), len(text) / 10, *(draw.gauss(0, 1) for _ in range(40))])

    def rule(self, first: str, second: str) -> float:
        return float((self.features(first) - self.features(second)) @ self.weights)


class FooledJudge(QualityJudge):
    """Knows quality, and believes whoever says that it is better."""

    def rule(self, first: str, second: str) -> float:
        return super().rule(first, second) + 9 * (("better" in first) - ("better" in second))
