"""Does a reward that pays less where the two orders of a judge disagree beat plain temperature scaling?

The reward is sigma(m / (1 + s^2 / tau^2)), m the debiased log-odds of a response against its anchor and s the distance
of the comparison's position bias from the mean one. It is held against sigma(m / T). The judges: the quickstart's, and
one that learnt pairs of which a quarter had flipped labels. Eight responses of the supervised policy to each prompt are
weighted by exp(reward / beta), the optimum under a KL penalty, with a beta of equal KL for every reward.
What counts is the true quality of the weighted responses. tau and T are chosen on one half of the prompts, and measured
on the other. Also: |p - 1/2| of pairs of responses whose true qualities are equal, as a share of what it is
for all other pairs of responses. Needs a finished quickstart; runs that are there already are not repeated.
"""

import json
import math
import os
from pathlib import Path
from random import Random
from typing import Any

from runs import make_missing, run_options, table

QUICKSTART = Path(os.environ.get("QUICKSTART", "runs/quickstart"))
FLIPPED, STEPS, PROMPTS, SAMPLES = 0.25, "300", 500, 8
TAUS = (0.125, 0.25, 0.5, 1.0, 2.0)
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
KLS = (0.25, 0.5, 1.0)
COLUMNS = {f"{kind} at KL {kl}": (f"{kind} at KL {kl}", 4) for kl in KLS for kind in ("priced", "temperature")}
COLUMNS |= {f"difference at KL {kl}": (f"difference at KL {kl}", 4) for kl in KLS}
COLUMNS |= {f"ties {kind}": (f"ties: {kind}", 3) for kind in ("plain", "priced", "temperature")}


def train_judge(folder: Path, seed: int) -> Path:
    """Train a judge on pairs of which a quarter are labelled the wrong way round."""
    from prl.cli.app import run_stage

    draw, pairs = Random(f"{seed}/flips"), folder / "pairs.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (QUICKSTART / "world" / "pairs.train.jsonl").read_text().splitlines()[:30000]]
    for row in rows:
        if draw.random() < FLIPPED:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["fit", "--config", "configs/quickstart/generative_reward.yaml", "--run_dir", str(folder / "judge")]
    args += ["--overwrite", "true", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    args += ["--trainer.max_steps", STEPS, "--trainer.limit_val_batches", "0", "--seed_everything", str(seed)]
    args += ["--data.init_args.train.path", str(pairs), "--data.init_args.seed", str(seed)]
    args += ["--data.init_args.validation.path", str(QUICKSTART / "world" / "pairs.validation.jsonl")]
    run_stage([*args, "--model.init_args.model.path", str(QUICKSTART / "supervised" / "model")])
    return folder / "judge" / "model"


def responses(seed: int) -> tuple[list[Any], list[str], list[str], Any]:
    """Sample eight responses to each prompt: prompts, responses, anchors, and true qualities [P, 8]."""
    import torch

    from prl.config import ModelSource, Sampling
    from prl.data import AnchoredPrompt, DataSource, load_records
    from prl.quickstart.world import gold_quality
    from prl.rollouts.prompts import PromptSampler

    prompts = DataSource(str(QUICKSTART / "world" / "prompts.train.jsonl"), limit=PROMPTS)
    records = load_records(prompts, AnchoredPrompt).records
    source, sampling = ModelSource(path=str(QUICKSTART / "supervised" / "model")), Sampling(12, 1.0, SAMPLES)
    sampler = PromptSampler(source, sampling, records, name="prompts", max_prompt_length=32, seed=seed)
    texts = [text.strip() for start in range(0, PROMPTS, 40) for text in sampler.sample(start, 40).texts]
    asked = [record for record in records for _ in range(SAMPLES)]
    gold = [gold_quality(each.prompt[-1]["content"], text) for each, text in zip(asked, texts, strict=True)]
    anchors = [each.anchors[0] for each in asked]
    return [each.prompt for each in asked], texts, anchors, torch.tensor(gold).double().view(-1, SAMPLES)


def quality_at(rewards: Any, gold: Any, kl: float) -> float:
    """Weight responses by exp(reward / beta) with this mean KL to the sampling policy, and average their quality.

    Args:
        rewards: [P, S].
        gold: [P, S].
        kl: nats.
    """
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        logs = (rewards * middle).log_softmax(1)
        found = (logs.exp() * (logs + math.log(SAMPLES))).sum(1).mean()
        low, high = (middle, high) if found < kl else (low, middle)
    return float(((rewards * low).softmax(1) * gold).sum(1).mean())


def judge_of(name: str, seed: int, out: Path) -> Any:
    """Load the quickstart's judge, or one that learnt from flipped labels."""
    from prl.judge import load_judge

    if name == "quickstart":
        return load_judge(QUICKSTART / "judge" / "model")
    model = out / str(seed) / "judge" / "model"
    return load_judge(model if model.exists() else train_judge(out / str(seed), seed))


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Judge the responses, choose tau and T, and measure."""
    import torch

    judge = judge_of(name, seed, out)
    prompts, texts, anchors, gold = responses(seed)
    verdict = judge.compare(prompts, texts, anchors)
    log_odds, bias = verdict.win_logit.double().view_as(gold), verdict.position_bias.double()
    spread = (bias - bias.mean()).square().view_as(gold)
    priced = {tau: (log_odds / (1 + spread / tau**2)).sigmoid() for tau in TAUS}
    scaled = {each: (log_odds / each).sigmoid() for each in TEMPERATURES}
    half, found = torch.arange(len(gold)) % 2 == 0, {}
    chosen: dict[str, Any] = {}
    for kl in KLS:
        for kind, rewards in (("priced", priced), ("temperature", scaled)):
            best = max(rewards, key=lambda each: quality_at(rewards[each][half], gold[half], kl))
            found[f"{kind} at KL {kl}"] = quality_at(rewards[best][~half], gold[~half], kl)
            chosen[f"{kind} at KL {kl}"] = best
        found[f"difference at KL {kl}"] = found[f"priced at KL {kl}"] - found[f"temperature at KL {kl}"]
    found |= ties(judge, prompts, texts, gold, chosen["priced at KL 0.5"], chosen["temperature at KL 0.5"])
    return {**found, "chosen": chosen, "sd_bias": float(bias.std()), "sd_margin": float(log_odds.std())}


def ties(judge: Any, prompts: list[Any], texts: list[str], gold: Any, tau: float, temperature: float) -> dict[str, Any]:
    """Compare neighbours among a prompt's responses: |p - 1/2| where qualities are equal, as a share."""
    import torch

    places = [n for n in range(0, len(texts), 2) if texts[n] != texts[n + 1]]
    verdict = judge.compare([prompts[n] for n in places], [texts[n] for n in places], [texts[n + 1] for n in places])
    tied = torch.tensor([float(gold.flatten()[n]) == float(gold.flatten()[n + 1]) for n in places])
    log_odds, bias = verdict.win_logit.double(), verdict.position_bias.double()
    spread = (bias - bias.mean()).square()
    found = {"num_ties": int(tied.sum())}
    kinds = {"plain": log_odds, "priced": log_odds / (1 + spread / tau**2), "temperature": log_odds / temperature}
    for kind, each in kinds.items():
        pay = (each.sigmoid() - 0.5).abs()
        found[f"ties {kind}"] = float(pay[tied].mean() / pay[~tied].mean())
    return found


def main() -> None:
    """Run what is missing, then print the table."""
    rows = make_missing(run_options(__doc__, "runs/uncertainty", ("quickstart", "flipped labels")), train)
    print(table(rows, "judge", COLUMNS))


if __name__ == "__main__":
    main()
