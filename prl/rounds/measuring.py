"""How far a round's policy has come: its responses against those of the start, under the rewards of the config."""

import json
from pathlib import Path

import torch

from prl.config import Sampling
from prl.data import AnchoredPrompt, DataSource, load_records
from prl.evaluation.bootstrap import bootstrap_mean
from prl.pairs.making import PairMaker
from prl.pairs.revising import RevisingSampler
from prl.rewards.base import RewardSource, load_frozen
from prl.rollouts.prompts import PromptSampler
from prl.system.outputs import write_text
from prl.types import Rollout

REVISED = "revised_"
"""How names of figures of revised responses begin."""
HELD_OUT = "validation_"
"""How names of figures under the held-out reward begin."""
BATCH = 64
"""Prompts sampled together."""


def sampled_texts(maker: PairMaker, prompts: DataSource) -> list[str]:
    """Sample one response of the maker's policy to each prompt, with the same draws for every policy."""
    records = load_records(prompts, AnchoredPrompt).records
    return [text for rollout in _sampled(maker, prompts, records, 0)[1] for text in rollout.texts]


@torch.no_grad()
def measure(
    maker: PairMaker,
    prompts: DataSource,
    before: list[str],
    samples: Path,
    heldout: RewardSource | None = None,
    revisions: int = 0,
) -> dict[str, float]:
    """Compare a policy's responses with those of the start, and write them.

    Args:
        maker: has the policy, the reward, and how to sample.
        prompts: unseen prompts.
        before: response of the start to each.
        samples: .jsonl file to write.
        heldout: a reward that trains nothing, and compares the same responses.
        revisions: how often the policy revises its responses, those of the start being as they are.

    Returns:
        `win_rate`, with its 95 % interval over prompts as `low` and `high`, and `characters` of a mean response. With a
        held-out reward also `validation_win_rate`, `validation_low` and `validation_high`.
    """
    records = load_records(prompts, AnchoredPrompt).records
    sampler, rollouts = _sampled(maker, prompts, records, revisions)
    texts = [text for rollout in rollouts for text in rollout.texts]
    wins = {"": _wins(maker.reward, sampler, maker, rollouts, before)}
    if heldout is not None:
        wins[HELD_OUT] = _wins(heldout, sampler, maker, rollouts, before)
    rows = [
        {"prompt": list(record.prompt), "response": text, "start": old}
        | {f"{name}win_prob": each[number] for name, each in wins.items()}
        for number, (record, text, old) in enumerate(zip(sampler.records, texts, before, strict=True))
    ]
    write_text(samples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    keys = [json.dumps(list(record.prompt)) for record in records]
    found = {"characters": sum(map(len, texts)) / max(len(texts), 1)}
    for name, each in wins.items():
        judged = [(win, key) for win, key in zip(each, keys, strict=True) if win == win]
        mean = bootstrap_mean([win for win, _ in judged], [key for _, key in judged])
        found |= {f"{name}win_rate": mean.mean, f"{name}low": mean.low, f"{name}high": mean.high}
    return found


def _wins(
    reward: RewardSource, sampler: PromptSampler, maker: PairMaker, rollouts: list[Rollout], before: list[str]
) -> list[float]:
    """Compute the probability that each response beats that of the start."""
    load_frozen(reward, sampler.policy, maker.policy.path)
    reward.to(sampler.device)
    wins: list[float] = []
    for rollout in rollouts:
        own = before[len(wins) : len(wins) + len(rollout)]
        verdict = reward.score(rollout.anchored([(text,) for text in own])).verdict
        assert verdict is not None  # each response has an anchor
        wins += verdict.win_prob.tolist()
    return wins


def _sampled(
    maker: PairMaker, prompts: DataSource, records: list[AnchoredPrompt], revisions: int
) -> tuple[PromptSampler, list[Rollout]]:
    sampling = Sampling(maker.sampling.max_new_tokens, maker.sampling.temperature)
    sampler = maker.sampler(records, prompts.path, sampling)
    revising = RevisingSampler(sampler, maker.policy, revisions, maker.revision_prompt)
    return sampler, [revising.sample(start, BATCH) for start in range(0, len(records), BATCH)]
