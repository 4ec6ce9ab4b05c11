"""How far a round's policy has come: its responses against those of the start, under the reward that trains it."""

import json
from pathlib import Path

import torch

from prl.config import Sampling
from prl.data import AnchoredPrompt, DataSource, load_records
from prl.evaluation.bootstrap import bootstrap_mean
from prl.pairs.making import PairMaker
from prl.rewards.base import load_frozen
from prl.rollouts.prompts import PromptSampler
from prl.system.outputs import write_text
from prl.types import Rollout

BATCH = 64
"""Prompts sampled together."""


def sampled_texts(maker: PairMaker, prompts: DataSource) -> list[str]:
    """Sample one response of the maker's policy to each prompt, with the same draws for every policy."""
    records = load_records(prompts, AnchoredPrompt).records
    return [text for rollout in _sampled(maker, prompts, records)[1] for text in rollout.texts]


@torch.no_grad()
def measure(maker: PairMaker, prompts: DataSource, before: list[str], samples: Path) -> dict[str, float]:
    """Compare a policy's responses with those of the start, and write them.

    Args:
        maker: has the policy, the reward, and how to sample.
        prompts: unseen prompts.
        before: response of the start to each.
        samples: .jsonl file to write.

    Returns:
        `win_rate`, with its 95 % interval over prompts as `low` and `high`, and `characters` of a mean response.
    """
    records = load_records(prompts, AnchoredPrompt).records
    sampler, rollouts = _sampled(maker, prompts, records)
    texts = [text for rollout in rollouts for text in rollout.texts]
    load_frozen(maker.reward, sampler.policy, maker.policy.path)
    maker.reward.to(sampler.device)
    wins: list[float] = []
    for rollout in rollouts:
        own = before[len(wins) : len(wins) + len(rollout)]
        verdict = maker.reward.score(rollout.anchored([(text,) for text in own])).verdict
        assert verdict is not None  # each response has an anchor
        wins += verdict.win_prob.tolist()
    keys = [json.dumps(list(record.prompt)) for record in records]
    rows = [
        {"prompt": list(record.prompt), "response": text, "start": old, "win_prob": win}
        for record, text, old, win in zip(records, texts, before, wins, strict=True)
    ]
    write_text(samples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    judged = [(win, key) for win, key in zip(wins, keys, strict=True) if win == win]
    found = bootstrap_mean([win for win, _ in judged], [key for _, key in judged])
    characters = sum(map(len, texts)) / max(len(texts), 1)
    return {"win_rate": found.mean, "low": found.low, "high": found.high, "characters": characters}


def _sampled(
    maker: PairMaker, prompts: DataSource, records: list[AnchoredPrompt]
) -> tuple[PromptSampler, list[Rollout]]:
    sampling = Sampling(maker.sampling.max_new_tokens, maker.sampling.temperature)
    sampler = PromptSampler(
        *(maker.policy, sampling, records),
        name=prompts.path,
        max_prompt_length=maker.max_prompt_length,
        seed=maker.seed,
        keep_thoughts=maker.keep_thoughts,
    )
    return sampler, [sampler.sample(start, BATCH) for start in range(0, len(records), BATCH)]
