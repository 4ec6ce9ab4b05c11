"""Best-of-n beside the policies of `experiments.policies`: no training, the best of n samples of the start.

Part of the protocol docs/results/claims/policies.md. A sample is chosen by the reward that a policy would have had: its
win probability against the data's anchor under a judge, or a Bradley-Terry model's number. Each row is a line in
experiments/results/best_of_n.jsonl.

    python -m experiments.best_of_n --seeds 5
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import read_rows, write_rows
from benchmarks.runs import missing_runs, run_options
from experiments.pages import publish
from experiments.policies import JUDGES, OUT, reward_model
from experiments.training import QUICKSTART
from experiments.trajectories import crossed
from experiments.verdicts import every_run

RESULTS = Path("experiments/results/best_of_n.jsonl")
NUMBERS = (1, 2, 4, 8, 16, 32)
REWARDS = {"judge": "judge", "Bradley-Terry": "bradley_terry"}


def samples(seed: int) -> list[list[str]]:
    """Sample the start's responses to the validation prompts, once for each seed."""
    from prl.config import ModelSource, Sampling
    from prl.data import AnchoredPrompt, DataSource, load_records
    from prl.rollouts.prompts import PromptSampler

    path = OUT / f"samples.{seed}.jsonl"
    if not path.exists():
        prompts = QUICKSTART / "world" / "prompts.validation.jsonl"
        records = load_records(DataSource(str(prompts)), AnchoredPrompt).records
        source = ModelSource(path=str(QUICKSTART / "supervised" / "model"))
        sampling = Sampling(max_new_tokens=12, per_prompt=NUMBERS[-1])
        settings: dict[str, Any] = {"name": prompts.name, "max_prompt_length": 64, "seed": 1000 * seed}
        sampler = PromptSampler(source, sampling, records, **settings)
        texts = [text for start in range(0, len(records), 20) for text in sampler.sample(start, 20).texts]
        rows = [texts[n : n + NUMBERS[-1]] for n in range(0, len(texts), NUMBERS[-1])]
        write_rows(path, [{"samples": row} for row in rows])
    return [row["samples"] for row in read_rows(path)]


@cache
def judge_of(folder: Path) -> Any:
    """Load a reward model as a judge."""
    from prl.judge import load_judge

    return load_judge(folder)


def run(variant: str, seed: int) -> dict[str, Any]:
    """Choose by one reward model among the samples of one seed; a Bradley-Terry model's order needs no anchor."""
    from prl.quickstart.world import gold_quality

    name, _, number = variant.partition(" | judge ")
    rows = read_rows(QUICKSTART / "world" / "prompts.validation.jsonl")
    found = samples(seed)
    asked = [(row["prompt"], text, row["anchor"]) for row, texts in zip(rows, found, strict=True) for text in texts]
    prompts: list[Any] = [[{"role": "user", "content": prompt}] for prompt, _, _ in asked]
    judge = judge_of(reward_model(REWARDS[name], int(number)))
    wins = judge.compare(prompts, [text for _, text, _ in asked], [anchor for _, _, anchor in asked]).win_logit.tolist()
    gold = [gold_quality(prompt, text) for prompt, text, _ in asked]
    most, points = NUMBERS[-1], []
    for n in NUMBERS:
        best = [max(range(at, at + n), key=wins.__getitem__) for at in range(0, len(asked), most)]
        kl = math.log(n) - (n - 1) / n
        points.append({"n": n, "kl": kl, "gold": sum(gold[i] for i in best) / len(best)})
    return {"judge": int(number), "points": points}


def main() -> None:
    """Measure what is missing, then write the table of all runs that are there."""
    variants = [f"{name} | judge {judge}" for judge in range(JUDGES) for name in REWARDS]
    options = run_options(__doc__, str(OUT), variants, seeds=5)
    lines = missing_runs(RESULTS, options.wanted, run)
    kls = [f"{math.log(n) - (n - 1) / n:.2f}" for n in NUMBERS]
    rows = ["| chosen by | " + " | ".join(f"n = {n}" for n in NUMBERS) + " |", "|---" * (1 + len(NUMBERS)) + "|"]
    rows.append(f"| KL, nats, at most | {' | '.join(kls)} |")
    for name in REWARDS:
        own = {(line["judge"], line["seed"]): line for line in lines if line["variant"].startswith(f"{name} |")}
        cells = [crossed({key: line["points"][k]["gold"] for key, line in own.items()}) for k in range(len(NUMBERS))]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    last = [{**line, **line["points"][-1]} for line in lines]
    publish("best_of_n", "\n".join(rows), f"Best of {NUMBERS[-1]}:", every_run(last, "gold"), page="policies")


if __name__ == "__main__":
    main()
