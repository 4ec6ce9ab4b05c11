"""Thoughts before the verdict: sampled behind a reading, closed, counted, and their verdicts averaged."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prl.config import Reasoning
from prl.data.thoughts import CLOSE
from prl.data.tokens import left_pad
from prl.judge.template import CompiledTemplate
from prl.models.policy import model_inputs, token_logprobs
from prl.models.prefix_sharing.tree_attention import device_of
from prl.rollouts.decoding import decode_rows
from prl.rollouts.drawing import draw_tokens, uniform_table
from prl.rollouts.generate import end_token_ids
from prl.rollouts.plain_decoding import base_model_of
from prl.verdict import Reasons, mean_margin


@dataclass(frozen=True)
class Thought:
    """A sampled thought."""

    ids: tuple[int, ...]
    """Its tokens, without the end token."""
    end: int | None
    """Token that ended it; None where it was closed at its limit."""

    @property
    def with_end(self) -> list[int]:
        """All tokens that were sampled, the end token included."""
        return [*self.ids] if self.end is None else [*self.ids, self.end]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that were sampled, the end token included."""
        return len(self.with_end)


@dataclass
class ThoughtCounts:
    """Thoughts so far."""

    readings: int = 0
    """Readings behind which there were thoughts; a verdict has two, one in each order."""
    thoughts: int = 0
    """Thoughts of all readings."""
    tokens: int = 0
    """Tokens of all thoughts."""
    unfinished: int = 0
    """Thoughts that were closed at their limit."""

    @property
    def tokens_per_reading(self) -> float:
        """Mean number of tokens that were sampled for one reading, over all its thoughts."""
        return self.tokens / max(self.readings, 1)

    @property
    def unfinished_fraction(self) -> float:
        """Share of the thoughts that were closed at their limit."""
        return self.unfinished / max(self.thoughts, 1)

    def add(self, readings: int, thoughts: Sequence[Thought]) -> None:
        """Count the thoughts of some readings."""
        self.readings += readings
        self.thoughts += len(thoughts)
        self.tokens += sum(thought.num_tokens for thought in thoughts)
        self.unfinished += sum(thought.end is None for thought in thoughts)


class ThoughtSampler:
    """Samples thoughts of a model, each by random numbers of its own.

    The draws of a thought follow from its name alone, so equal readings get equal thoughts in any batch, up to the
    rounding of logits: a draw that falls within rounding of the edge between two tokens may give the other one. That is
    about one token in a million in float32, and one in a hundred in half precision. Special tokens other than the ends
    of a turn are never sampled, nor ids beyond the tokenizer's.

    Args:
        tokenizer: the model's.
        end_ids: ids that end a thought.
        max_tokens: most tokens of a thought.
        temperature: divides the logits; 0 takes the likeliest token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], max_tokens: int, temperature: float
    ) -> None:
        self.end_ids, self.max_tokens, self.temperature = list(end_ids), max_tokens, temperature
        self.pad_id, self._known = int(tokenizer.pad_token_id), len(tokenizer)
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = sorted((added | set(tokenizer.all_special_ids)) - set(self.end_ids))

    def scaled(self, logits: Tensor) -> Tensor:
        """Turn logits into those that thoughts are sampled from: [..., V] -> [..., V] float32, -inf for what is not.

        The softmax of the result is the distribution of the next token, at a temperature above 0.
        """
        barred = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        barred[[number for number in self._special if number < len(barred)]] = True
        barred[self._known :] = True
        return (logits.float() / (self.temperature or 1.0)).masked_fill(barred, -torch.inf)

    @torch.no_grad()
    def sample(
        self, model: Any, readings: Sequence[list[int]], names: Sequence[str], max_batch_tokens: int
    ) -> list[Thought]:
        """Sample a thought behind each reading, in batches of like lengths.

        Args:
            model: causal language model.
            readings: N readings as token ids.
            names: N names of draws; equal names behind equal readings give equal thoughts.
            max_batch_tokens: padded tokens of one batch, thoughts included.
        """
        found: list[Thought | None] = [None] * len(readings)
        order = sorted(range(len(readings)), key=lambda i: len(readings[i]), reverse=True)
        while order:
            number = max(1, max_batch_tokens // (len(readings[order[0]]) + self.max_tokens))
            batch, order = order[:number], order[number:]
            draws = torch.stack([_uniforms(names[i], self.max_tokens) for i in batch])
            for i, thought in zip(batch, self._sample(model, [readings[i] for i in batch], draws), strict=True):
                found[i] = thought
        return [thought for thought in found if thought is not None]

    def _sample(self, model: Any, readings: list[list[int]], draws: Tensor) -> Iterator[Thought]:
        device = device_of(model)
        ids, mask = (each.to(device) for each in left_pad(readings, self.pad_id))
        draws = draws.to(device)

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            # A NaN must not end the process here: the verdict behind the thought is then NaN, and counted as failed.
            scaled = self.scaled(logits.nan_to_num(0.0))
            return scaled.argmax(-1) if self.temperature == 0 else draw_tokens(scaled, 1.0, draws[rows, step])

        limits = torch.full((len(readings),), self.max_tokens, device=device)
        settings: Any = {"limits": limits, "end_ids": self.end_ids, "pad_id": self.pad_id}
        for row in decode_rows(model, ids, mask, choose, **settings).tolist():
            ends = [place for place, token in enumerate(row) if token in self.end_ids]
            yield Thought(tuple(row[: ends[0]]), row[ends[0]]) if ends else Thought(tuple(row), None)


def _uniforms(name: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)
    return uniform_table(1, count, generator)[0]


def name_of(seed: int | str, reading: Sequence[int], sample: int) -> str:
    """Name the draws of a thought: by a seed, the reading that it is about, and its number."""
    return json.dumps([seed, list(reading), sample])


class Reasoner:
    """Reads verdicts after thoughts.

    Args:
        settings: of the thoughts.
        model: causal language model; its generation settings name further end tokens.
        tokenizer: the model's.
        compiled: template of the readings, which has what stands between a thought and the verdict.
    """

    def __init__(
        self, settings: Reasoning, model: Any, tokenizer: PreTrainedTokenizerBase, compiled: CompiledTemplate
    ) -> None:
        self.settings, self.compiled, self._tokenizer = settings, compiled, tokenizer
        ends = end_token_ids(base_model_of(model), tokenizer)
        self.sampler = ThoughtSampler(tokenizer, ends, settings.max_tokens, settings.temperature)
        self.counts = ThoughtCounts()
        self._place_of: dict[str, int] = {}
        self._reasons: Reasons | None = None
        self._kept: dict[tuple[int, ...], list[Thought]] | None = None

    def think(
        self, model: Any, readings: Sequence[list[int]], max_batch_tokens: int, *, samples: int, seed: int | str
    ) -> list[Thought]:
        """Sample thoughts: N readings -> N * samples thoughts, those of one reading in a row."""
        repeated = [reading for reading in readings for _ in range(samples)]
        names = [name_of(seed, reading, number) for reading in readings for number in range(samples)]
        return self.sampler.sample(model, repeated, names, max_batch_tokens)

    def closed(self, reading: list[int], thought: Sequence[int]) -> list[int]:
        """Put a thought and the closing behind a reading, as token ids: a thought's text cannot become the verdict.

        Thoughts that the chat template opens are ended first, where this one has not done so itself.
        """
        end = self.compiled.end_of_thoughts
        if end and CLOSE in self._tokenizer.decode(list(thought)):
            end = ()
        return [*reading, *thought, *end, *self.compiled.closing]

    @contextmanager
    def thoughts_kept(self) -> Iterator[None]:
        """Have readings that come again within think what they thought at first."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _thoughts(self, model: Any, readings: Sequence[list[int]], max_batch_tokens: int) -> list[Thought]:
        """Sample and count the thoughts of readings, those of one in a row; kept ones come again."""
        samples, kept = self.settings.samples, {} if self._kept is None else self._kept
        new = [reading for reading in readings if tuple(reading) not in kept]
        found = self.think(model, new, max_batch_tokens, samples=samples, seed=self.settings.seed)
        self.counts.add(len(new), found)
        kept |= {tuple(reading): found[i * samples : (i + 1) * samples] for i, reading in enumerate(new)}
        return [thought for reading in readings for thought in kept[tuple(reading)]]

    def margins(
        self,
        model: Any,
        comparisons: Sequence[Any],
        readings: Sequence[list[int]],
        read: Callable[[list[list[int]]], Tensor],
        max_batch_tokens: int,
    ) -> Tensor:
        """Judge each reading after its thoughts, averaged in probability: [N]; `reasons_of` then tells each of them.

        Args:
            model: causal language model.
            comparisons: N names of the readings, for `reasons_of`, such as their comparisons.
            readings: token ids, up to where a thought begins.
            read: computes the margin at the end of each whole reading: M -> [M].
            max_batch_tokens: padded tokens of one batch of thoughts.
        """
        samples = self.settings.samples
        thoughts = self._thoughts(model, readings, max_batch_tokens)
        whole = [self.closed(readings[i // samples], thought.ids) for i, thought in enumerate(thoughts)]
        shape = (len(readings), samples)
        self._place_of = {json.dumps(each): i for i, each in enumerate(comparisons)}
        self._reasons = Reasons(
            read(whole).view(shape),
            torch.tensor([thought.num_tokens for thought in thoughts]).view(shape),
            torch.tensor([thought.end is None for thought in thoughts], dtype=torch.bool).view(shape),
        )
        return mean_margin(self._reasons.margins)

    def reasons_of(self, comparisons: Sequence[Any]) -> Reasons:
        """Return what each thought led to, of comparisons of the last call."""
        assert self._reasons is not None, "nothing was judged yet"
        return self._reasons.select([self._place_of[json.dumps(each)] for each in comparisons])

    def metrics(self) -> dict[str, float]:
        """Return the costs of thoughts so far, by the tags of their log."""
        return {
            "perf/judge_thought_tokens": self.counts.tokens_per_reading,
            "perf/judge_unfinished_thoughts": self.counts.unfinished_fraction,
        }


def thought_outputs(
    model: Any,
    readings: Sequence[list[int]],
    thoughts: Sequence[Sequence[int]],
    ended: Sequence[bool],
    reasoner: Reasoner,
) -> tuple[Tensor, Tensor]:
    """Read closed thoughts, with gradients.

    The end token of a thought is predicted where the closing begins, which is read in its place.

    Args:
        model: causal language model.
        readings: N readings, up to where a thought begins.
        thoughts: N thoughts, the end token of each included.
        ended: N times whether the last token of a thought is its end token.
        reasoner: of the model.

    Returns:
        verdict logits [N, V] float32, and the log-probability of each token of a thought under the distribution that
        thoughts are sampled from [N, W], 0 elsewhere.
    """
    device, sampler = device_of(model), reasoner.sampler
    written = [list(thought)[: len(thought) - end] for thought, end in zip(thoughts, ended, strict=True)]
    rows = [reasoner.closed(*each) for each in zip(readings, written, strict=True)]
    ids, mask = left_pad(rows, sampler.pad_id)
    # Counted from where the first token of the thought is predicted.
    behind = [len(row) - len(reading) + 1 for row, reading in zip(rows, readings, strict=True)]
    width = max(behind)
    targets, counts = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, thought in enumerate(thoughts):
        first = width - behind[i]
        targets[i, first : first + len(thought)] = torch.tensor(thought, dtype=torch.long)
        counts[i, first : first + len(thought)] = True
    inputs = model_inputs(ids.to(device), mask.to(device))
    logits = model(**inputs, logits_to_keep=width).logits
    logprobs = token_logprobs(sampler.scaled(logits), targets.to(device), counts.to(device))
    return logits[:, -1].float(), logprobs
