"""Knockout tournament under a judge: n - 1 comparisons choose one of n responses."""

from dataclasses import dataclass

import torch

from prl.rewards.base import Compare
from prl.types import Conversation


@dataclass(frozen=True)
class Champion:
    """The winner of one prompt's tournament."""

    text: str
    win_prob: float
    """Win probability in the final; 1/2 for an only candidate."""
    num_comparisons: int


def knockout(
    prompts: list[Conversation], candidates: list[list[str]], compare: Compare, *, seed: int = 0
) -> list[Champion]:
    """Find the champion of each prompt's candidates; all prompts play their rounds together.

    Equal texts enter once. The seed draws the pairings; with an odd number one candidate has a bye. A tie or a failed
    comparison is won by the candidate that was drawn first.

    Args:
        prompts: P prompts.
        candidates: the responses to each prompt, at least one.
        compare: judges pairs in both orders.
        seed: seed of the draw.

    Raises:
        ValueError: for a prompt without candidates.
    """
    generator = torch.Generator().manual_seed(seed)
    fields, counts, probs = [], [0] * len(prompts), [0.5] * len(prompts)
    for number, texts in enumerate(candidates):
        field = list(dict.fromkeys(texts))
        if not field:
            raise ValueError(f"prompt {number + 1} has no candidates")
        fields.append([field[i] for i in torch.randperm(len(field), generator=generator).tolist()])
    while any(len(field) > 1 for field in fields):
        games = [(n, i) for n, field in enumerate(fields) for i in range(0, len(field) - 1, 2)]
        verdict = compare(
            [prompts[n] for n, _ in games],
            [fields[n][i] for n, i in games],
            [fields[n][i + 1] for n, i in games],
        )
        lost = set()
        for (n, i), probability in zip(games, verdict.win_prob.tolist(), strict=True):
            second_wins = probability < 0.5
            lost.add((n, i if second_wins else i + 1))
            counts[n] += 1
            if len(fields[n]) == 2 and probability == probability:
                probs[n] = 1 - probability if second_wins else probability
        fields = [[text for i, text in enumerate(field) if (n, i) not in lost] for n, field in enumerate(fields)]
    return [Champion(field[0], prob, count) for field, prob, count in zip(fields, probs, counts, strict=True)]
