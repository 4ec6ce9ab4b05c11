"""Directional preference alignment on the quickstart's world: does one policy follow the direction in its prompt?

Takes a finished quickstart at runs/quickstart. Two attributes are traded off: correctness, which an annotator grades
from 0 to 4, and length, half a point for each character. A reward model with a head for each learns from graded pairs
(configs/methods/multi_head.yaml). The start learns to read prompts with directions, and not to follow them, from
demonstrations whose directions are drawn at random. Rounds of configs/rounds/dpa.yaml train it further; then samples of
the start and of each round's policy are measured at several directions, correctness by the truth. Every prompt is asked
at every direction, so that differences between directions are not those between prompts. A run that is in the results
file already is not repeated, and one that was stopped goes on.
"""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from runs import missing_runs, run_options, table

QUICKSTART = Path("runs/quickstart")
"""Folder of the models and prompts that the configs name."""
ANGLES = (-45, -30, -15, 0, 15, 30, 45)
"""Degrees from correctness towards length at which policies are measured."""
ATTRIBUTES = ("correctness", "length")
ROUNDS, SAMPLES, START_STEPS = 4, 4, 600
"""Rounds in all, each with all prompts; responses to each prompt and direction when measuring; steps of the start."""


def truth(prompt: str, response: str) -> dict[str, float]:
    """Score a response on both attributes; correctness is not rounded to grades."""
    from prl.quickstart.world import gold_quality

    return {"correctness": gold_quality(prompt, response), "length": len(response) / 2}


def write_attributes(out: Path) -> None:
    """Write the world's pairs with an annotator's scores of both responses."""
    for split in ("train", "validation"):
        path = out / f"attributes.{split}.jsonl"
        if path.exists():
            continue
        lines = (QUICKSTART / "world" / f"pairs.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = list(map(json.loads, lines))
        for row in rows:
            for side in ("chosen", "rejected"):
                found = truth(row["prompt"], row[side])
                row[f"{side}_correctness"] = round(4 * found["correctness"]) / 4  # an annotator's five grades
                row[f"{side}_length"] = found["length"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def reward_model(out: Path) -> Path:
    """Train the heads, unless they are there."""
    from prl.cli.app import run_stage

    if not (out / "reward" / "model").exists():
        write_attributes(out)
        files = [
            each
            for split in ("train", "validation")
            for each in (f"--data.init_args.{split}.path", str(out / f"attributes.{split}.jsonl"))
        ]
        configs = [f"--config=configs/{name}.yaml" for name in ("quickstart/bradley_terry", "methods/multi_head")]
        run_stage(["fit", *configs, *files, "--run_dir", str(out / "reward"), "--overwrite", "true"])
    return out / "reward" / "model"


def start_policy(config: Any, out: Path) -> Path:
    """Train the quickstart's policy on demonstrations with directions in their prompts, unless it is there."""
    from prl.cli.app import run_stage
    from prl.data import DataSource, Demonstration, load_records

    if not (out / "start" / "model").exists():
        files = []
        for split in ("train", "validation"):
            path = QUICKSTART / "world" / f"demonstrations.{split}.jsonl"
            asked = config.maker(config.policy, 0).directions.ask(
                load_records(DataSource(str(path)), Demonstration).records, seed=0
            )
            rows = [{"prompt": each.prompt, "completion": each.completion} for each in asked]
            path = out / f"demonstrations.{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files += [f"--data.init_args.{split}.path", str(path)]
        model = ["--model.init_args.model.path", config.policy, "--model.init_args.model.config", "null"]
        model += [
            "--model.init_args.model.tokenizer",
            "null",
            *("--model.init_args.optimization.learning_rate", "1e-3"),
        ]
        steps = ["--trainer.max_steps", str(START_STEPS), "--run_dir", str(out / "start"), "--overwrite", "true"]
        run_stage(["fit", "--config=configs/quickstart/supervised.yaml", *files, *model, *steps])
    return out / "start" / "model"


def heads_against_the_truth(model: Path, out: Path) -> dict[str, float]:
    """Measure the heads on unseen responses: the share of the variance of the truth that each explains."""
    from prl.rewards import MultiHead

    source = MultiHead(str(model))
    source.load()
    rows = list(map(json.loads, (out / "attributes.validation.jsonl").read_text(encoding="utf-8").splitlines()))
    pairs = [(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in pairs]
    said = source.values(prompts, [text for _, text in pairs]).tolist()
    found = {}
    for number, name in enumerate(source.head_names):
        true = [truth(*pair)[name] for pair in pairs]
        mean = fmean(true)
        errors = sum((row[number] - each) ** 2 for row, each in zip(said, true, strict=True))
        found[f"explained_{name}"] = 1 - errors / sum((each - mean) ** 2 for each in true)
    return found


def measure(config: Any, model: str) -> dict[str, float]:
    """Sample a policy at every direction, and measure both attributes and what the direction makes of them."""
    from dataclasses import replace

    from prl.config import Sampling
    from prl.data import AnchoredPrompt, load_records

    maker = config.maker(model, 0)
    records = load_records(config.validation, AnchoredPrompt).records
    sampling = Sampling(maker.sampling.max_new_tokens, per_prompt=SAMPLES)
    found: dict[str, float] = {}
    directions = maker.directions
    for angle in ANGLES:
        maker.directions = replace(directions, angles=(angle, angle))
        rollout = maker.sampler(records, config.validation.path, sampling).sample(0, len(records))
        prompts = [prompt[-1]["content"] for prompt in rollout.batch.prompts]
        scores = [truth(prompt, text) for prompt, text in zip(prompts, rollout.texts, strict=True)]
        means = {name: fmean(each[name] for each in scores) for name in ATTRIBUTES}
        v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        reward = sum(weight * means[name] for weight, name in zip(v, ATTRIBUTES, strict=True))
        found |= {f"{name}_{angle}": value for name, value in {**means, "reward": reward}.items()}
    return found


def train(seed: int, out: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Make the rounds, and measure the start and the policy of each round."""
    from prl.cli.commands.rounds import TABLE, main
    from prl.cli.rounds_config import RoundsConfig

    model, folder = reward_model(out), out / f"rounds.{seed}"
    configs = [f"--config=configs/rounds/{name}.yaml" for name in ("dpo", "dpa")]
    settings = ["--pairs.seed", str(seed), "--pairs.reward.init_args.path", str(model), "--rounds.prompt_shares", "1"]
    settings += ["--rounds.number", str(ROUNDS), *overrides]
    settings += ["--pairs.policy.path", str(start_policy(RoundsConfig([*configs, *settings]), out))]
    main([*configs, "--out", str(folder), *settings])
    config = RoundsConfig([*configs, *settings])
    reports = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    start = {"round": 0, **measure(config, config.policy), **heads_against_the_truth(model, out)}
    kept = ("round", "win_rate", "demonstrations")
    return [start, *({**{k: each[k] for k in kept if k in each}, **measure(config, each["model"])} for each in reports)]


def shown(rows: list[dict[str, Any]]) -> str:
    """Directions down, the start and the last round across: means over seeds with their intervals."""
    lines = []
    for row in rows:
        stages = {"start": row["rounds"][0], "last": row["rounds"][-1]}
        for angle in ANGLES:
            names = (*ATTRIBUTES, "reward")
            line = {f"{stage}_{n}": found[f"{n}_{angle}"] for stage, found in stages.items() for n in names}
            # Reward along this direction of the responses to prompts that ask for correctness alone.
            v = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            line["at_0"] = sum(w * stages["last"][f"{n}_0"] for w, n in zip(v, ATTRIBUTES, strict=True))
            lines.append({"variant": f"{angle}°", "seed": row["seed"], **line})
    columns = {f"{stage}_{n}": (f"{n}, {stage}", 3) for n in (*ATTRIBUTES, "reward") for stage in ("start", "last")}
    return table(lines, "direction", {**columns, "at_0": ("reward, last, asked at 0°", 3)})


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/dpa", ["DPA"])
    rows = missing_runs(
        options.out / "results.jsonl",
        options.wanted,
        lambda name, seed: {"rounds": train(seed, options.out, options.overrides)},
    )
    print(shown(rows))


if __name__ == "__main__":
    main()
