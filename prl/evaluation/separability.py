"""Whether chosen and rejected responses differ in their tokens alone, as those of different generators do.

A policy can then satisfy its loss by the look of a generator, without learning what is better (2504.02193). A probe
that never sees a prompt, logistic regression on the tokens of a response, tells how far that goes.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from prl.data.rows.records import PreferencePair
from prl.evaluation.bootstrap import bootstrap_mean
from prl.verdict import wins

FEWEST_PROMPTS = 20
"""Prompts below which nothing is measured."""
MOST_PAIRS, MOST_TOKENS = 2000, 2000
"""Pairs and different tokens that a probe reads: 32 MB."""
FOLDS = 5
PENALTY = 1.0
"""Half of it times the squared weights is added to the summed loss."""
SOURCES = (("chosen_source", "rejected_source"), ("chosen_model", "rejected_model"))
"""Columns that name the generators of a pair's responses."""

Tokens = Callable[[str], Sequence[Hashable]]


def words(text: str) -> list[str]:
    """Split a text into words and single marks: the tokens where no tokenizer is given."""
    return re.findall(r"\w+|[^\w\s]", text)


def separability(
    pairs: Sequence[PreferencePair], keys: Sequence[Hashable], tokens: Tokens = words, *, seed: int = 0
) -> dict[str, Any] | None:
    """Measure how well better and worse responses are told apart by their tokens, on prompts unseen by the probe.

    Features are log(1 + count) of each token. Prompts are dealt into FOLDS parts; the responses to each are classified
    by a probe that was fitted to the others. A coin has 1/2.

    Args:
        pairs: the pairs; ties have no better response and are left out.
        keys: key of the prompt of each pair.
        tokens: splits a response.
        seed: of the draw of prompts, where there are more than MOST_PAIRS pairs.

    Returns:
        accuracy with its 95 % bootstrap interval over prompts, `low` and `high`, and num_pairs; None for fewer than
        FEWEST_PROMPTS prompts.
    """
    chosen, part_of = _drawn(pairs, keys, seed)
    if len(set(part_of)) < FEWEST_PROMPTS:
        return None
    texts = [text for pair in chosen for text in (pair.chosen, pair.rejected)]
    labels = torch.tensor(
        [float(better) for pair in chosen for better in (pair.preference > 0.5, pair.preference < 0.5)]
    )
    features = _bags([tokens(text) for text in texts])
    prompts = torch.tensor(part_of).repeat_interleave(2)
    right = torch.empty(len(labels))
    for fold in range(FOLDS):
        held_out = prompts % FOLDS == fold
        weights, bias = fit_logistic(features[~held_out], labels[~held_out])
        right[held_out] = wins((features[held_out] @ weights + bias) * (2 * labels[held_out] - 1))
    interval = bootstrap_mean(right.tolist(), prompts.tolist(), seed=seed)
    return {"accuracy": interval.mean, "low": interval.low, "high": interval.high, "num_pairs": len(chosen)}


def same_source(pairs: Sequence[PreferencePair]) -> dict[str, Any] | None:
    """Count the pairs whose two responses have one generator, by the columns of SOURCES; None where no row has them."""
    named = [
        next((pair.extra[a] == pair.extra[b] for a, b in SOURCES if {a, b} <= pair.extra.keys()), None)
        for pair in pairs
    ]
    known = [same for same in named if same is not None]
    return {"share": sum(known) / len(known), "num_pairs": len(known)} if known else None


def _drawn(
    pairs: Sequence[PreferencePair], keys: Sequence[Hashable], seed: int
) -> tuple[list[PreferencePair], list[int]]:
    """Draw whole prompts up to MOST_PAIRS pairs; return them with the number of each prompt, in the drawn order."""
    of_prompt: dict[Hashable, list[PreferencePair]] = {}
    for pair, key in zip(pairs, keys, strict=True):
        if pair.preference != 0.5:
            of_prompt.setdefault(key, []).append(pair)
    order = list(of_prompt)
    random.Random(seed).shuffle(order)
    chosen: list[PreferencePair] = []
    part_of: list[int] = []
    for number, key in enumerate(order):
        if chosen and len(chosen) + len(of_prompt[key]) > MOST_PAIRS:
            break
        chosen += of_prompt[key]
        part_of += [number] * len(of_prompt[key])
    return chosen, part_of


def _bags(texts: Sequence[Sequence[Hashable]]) -> Tensor:
    """Count the tokens that several texts have, the most common MOST_TOKENS: log(1 + count), [N, D]."""
    counts = [Counter(text) for text in texts]
    seen = Counter(token for each in counts for token in each)
    number = {token: n for n, (token, times) in enumerate(seen.most_common(MOST_TOKENS)) if times > 1}
    found = [(row, number[token], n) for row, each in enumerate(counts) for token, n in each.items() if token in number]
    features = torch.zeros(len(texts), max(len(number), 1))
    if found:
        rows, columns, times = (torch.tensor(each) for each in zip(*found, strict=True))
        features[rows, columns] = times.float().log1p()
    return features


@torch.enable_grad()
def fit_logistic(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Fit logistic regression with squared weights penalised and the bias free, as scikit-learn does with C = 1.

    Args:
        features: [N, D].
        labels: [N] 0 or 1.

    Returns:
        Weights [D] and bias, a number.
    """
    weights = features.new_zeros(features.shape[1], requires_grad=True)
    bias = features.new_zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = binary_cross_entropy_with_logits(features @ weights + bias, labels, reduction="sum")
        total = (fitted + PENALTY / 2 * weights.square().sum()) / len(labels)
        total.backward()
        return total

    optimizer.step(loss)
    return weights.detach(), bias.detach()
