"""Evaluation of a policy of the quickstart world against the truth: gold quality and win rate against the anchor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prl.checkpoints.random_states import forked
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, load_records
from prl.data.encoding import PromptEncoder
from prl.evaluation.bootstrap import Interval, bootstrap_mean
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.policy import response_logits, token_logprobs
from prl.quickstart.world import gold_quality
from prl.rollouts.generate import end_token_ids, generate
from prl.types import Rollout


@dataclass(frozen=True)
class GoldReport:
    """True quality of a policy's sampled responses to validation prompts; intervals are over prompts."""

    gold: Interval
    win_rate: Interval
    """Win rate against the anchor by gold quality, ties one half."""
    kl: float
    """Mean over responses of log policy - log reference, nats; 0 without a reference."""
    responses: list[tuple[str, str, str]]
    """(prompt, response, anchor)"""


@torch.no_grad()
def evaluate(model: Path, prompts: Path, sampling: Sampling, *, reference: Path | None = None) -> GoldReport:
    """Sample one response to every prompt of a file with fixed draws, and compare with the truth."""
    source = ModelSource(path=str(model))
    tokenizer, policy = load_tokenizer(source), load_causal_lm(source).eval()
    encoder = PromptEncoder(tokenizer, max_length=64)
    records: list[Any] = load_records(DataSource(str(prompts)), AnchoredPrompt).records
    rows = [row for row in map(encoder.encode, records) if row is not None]
    batch = encoder.collate(rows)
    with forked(seed=0):
        rollout = generate(policy, tokenizer, batch, sampling, end_ids=end_token_ids(policy, tokenizer))
    kl = 0.0
    if reference is not None:
        base = load_causal_lm(ModelSource(path=str(reference))).eval()
        kl = float((_logprobs(policy, rollout) - _logprobs(base, rollout)).sum(1).mean())
    texts = [prompt[-1]["content"] for prompt in batch.prompts]
    triples = list(zip(texts, rollout.texts, (a[0] for a in batch.anchors), strict=True))
    gold = [gold_quality(prompt, response) for prompt, response, _ in triples]
    edge = [g - gold_quality(prompt, anchor) for g, (prompt, _, anchor) in zip(gold, triples, strict=True)]
    wins = [0.5 if e == 0 else float(e > 0) for e in edge]
    return GoldReport(bootstrap_mean(gold, texts), bootstrap_mean(wins, texts), kl, triples)


def _logprobs(model: Any, rollout: Rollout) -> torch.Tensor:
    width = rollout.response_ids.shape[1]
    logits = response_logits(model, rollout.input_ids, rollout.attention_mask, width)
    return token_logprobs(logits, rollout.response_ids, rollout.response_mask)
