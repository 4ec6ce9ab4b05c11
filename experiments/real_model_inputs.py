"""Make the rows of the study of a real model: responses of the start model, labelled pairs, prompts with anchors."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.online_inputs import read_rows, write_rows
from experiments.instructions import Instruction, instructions, probability, quality
from prl.system.outputs import writing

TEST, TEST_SEED, TUNING_SEED = "test", 98, 99
"""Of the prompts that measure the models of all seeds, and of those on which learning rates are searched."""
RESPONSES, MAX_NEW_TOKENS, TEMPERATURE, MAX_PROMPT_LENGTH = 4, 32, 0.7, 128
SAMPLED_TOGETHER = 16
"""Prompts whose responses are sampled together; equal numbers give equal draws."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of prompts, pairs and steps of a study."""

    prompts: int = 400
    """Training prompts of a seed."""
    validation: int = 48
    """Test prompts with combinations of checks that training has."""
    unseen: int = 24
    """Test prompts with other combinations."""
    pairs: int = 1600
    """Training pairs of a seed, each read once."""
    pairs_a_step: int = 8
    rates: tuple[float, ...] = (2e-4, 4e-4, 8e-4)
    """Learning rates that reward models are searched over; one needs no search."""
    iterations: int = 24
    prompts_an_iteration: int = 16
    every: int = 8
    """Iterations between two validations."""


FULL = Sizes()
SMALL = Sizes(
    prompts=96, validation=16, unseen=8, pairs=240, rates=(4e-4,), iterations=4, prompts_an_iteration=8, every=2
)


def held_out_instructions(sizes: Sizes) -> list[Instruction]:
    """Draw the test prompts, those with unseen combinations last."""
    return [*instructions(TEST, "validation", sizes.validation), *instructions(TEST, "unseen", sizes.unseen)]


def seed_instructions(seed: int, sizes: Sizes) -> list[Instruction]:
    """Draw the training prompts of a seed; the search has a quarter more, of which the last fifth is measured on."""
    more = sizes.prompts // 4 if seed == TUNING_SEED else 0
    return instructions(str(seed), "train", sizes.prompts + more)


def candidates(model: Path, asked: Sequence[Instruction], folder: Path, seed: int) -> list[dict[str, Any]]:
    """Sample RESPONSES responses of a model to each prompt; batches that are in the folder are not sampled again.

    Returns:
        For each prompt `prompt`, `responses`, their `qualities`, their number of `tokens`, and whether they `finished`.
    """
    starts = range(0, len(asked), SAMPLED_TOGETHER)
    paths = {start: folder / f"{start:06d}.jsonl" for start in starts}
    missing = [start for start in starts if not paths[start].exists()]
    if missing:
        from prl.config import ModelSource, Sampling
        from prl.data import AnchoredPrompt
        from prl.rollouts.prompts import PromptSampler

        records = [record for each in asked for record in AnchoredPrompt.parse({"prompt": each.text})]
        sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, per_prompt=RESPONSES)
        length: dict[str, Any] = {"max_prompt_length": MAX_PROMPT_LENGTH, "seed": seed * 1_000_003}
        sampler = PromptSampler(ModelSource(path=str(model)), sampling, records, name="the instructions", **length)
        for start in missing:
            rollout = sampler.sample(start, SAMPLED_TOGETHER)
            rows = _answered(asked[start : start + SAMPLED_TOGETHER], rollout)
            with writing(paths[start]) as partial:
                write_rows(partial, list(rows))
    return [row for path in paths.values() for row in read_rows(path)]


def _answered(asked: Sequence[Instruction], rollout: Any) -> Iterator[dict[str, Any]]:
    lengths = rollout.response_mask.sum(1).tolist()
    for place, each in enumerate(asked):
        own = slice(place * RESPONSES, (place + 1) * RESPONSES)
        texts = rollout.texts[own]
        yield {
            "prompt": each.text,
            "responses": texts,
            "qualities": [quality(each.checks, text) for text in texts],
            "tokens": lengths[own],
            "finished": rollout.finished.tolist()[own],
        }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Describe responses: true quality, its deviation within a prompt, share fulfilled, tokens, share that ended."""
    every = {name: [each for row in rows for each in row[name]] for name in ("qualities", "tokens", "finished")}
    return {
        "gold": statistics.fmean(every["qualities"]),
        "deviation_within": statistics.fmean(statistics.pstdev(row["qualities"]) for row in rows),
        "fulfilled": statistics.fmean(each == 1 for each in every["qualities"]),
        "tokens": statistics.fmean(every["tokens"]),
        "finished": statistics.fmean(every["finished"]),
    }


def _comparable(row: dict[str, Any]) -> Iterator[tuple[tuple[str, float], tuple[str, float]]]:
    """List the pairs of a prompt's responses of which one is better; blank ones are compared with none."""
    answers = [each for each in zip(row["responses"], row["qualities"], strict=True) if each[0]]
    yield from ((one, other) for one, other in combinations(answers, 2) if one[1] != other[1])


def labelled_pairs(rows: Sequence[dict[str, Any]], seed: str, count: int) -> list[dict[str, Any]]:
    """Draw pairs of responses to one prompt, each with one label, which is wrong as often as the law says.

    Returns:
        `count` pairs, or all where there are fewer.
    """
    draw = Random(f"{seed}/labels")
    drawn = [(row["prompt"], *pair) for row in rows for pair in _comparable(row)]
    draw.shuffle(drawn)
    found = []
    for prompt, one, other in drawn[:count]:
        first, second = (one, other) if draw.random() < probability(one[1], other[1]) else (other, one)
        found.append({"prompt": prompt, "chosen": first[0], "rejected": second[0]})
    return found


def true_pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """List all pairs with the probability of their label; `chosen` is the better one in truth."""
    found = []
    for row in rows:
        for pair in _comparable(row):
            worse, better = sorted(pair, key=lambda each: each[1])
            known = {"preference": probability(better[1], worse[1])}
            found.append({"prompt": row["prompt"], "chosen": better[0], "rejected": worse[0], **known})
    return found


def anchored_prompts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """List prompts with the first response that is not blank as anchor; a prompt without one is left out."""
    return [{"prompt": row["prompt"], "anchor": text} for row in rows for text in [*filter(None, row["responses"])][:1]]
