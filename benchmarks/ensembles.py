"""Do conservative ensembles lose less true quality than their mean? Over-optimised runs of the quickstart's world.

Takes a finished quickstart at runs/quickstart. Five Bradley-Terry models differ by their seeds, which decide the new
head and the order of the data; a quarter of their labels is flipped, as in the paper (2310.02743), and each is scaled
to mean 0 and deviation 1 over validation responses. Pairwise PPO then maximises one of them, their mean, the worst
(WCO) or the mean less the variance (UWO), without a KL penalty. True quality is measured by validations; what is lost
is the best of them less the last. A run that is in the results file already is not repeated.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from over_optimisation import with_gold

from runs import make_missing, run_options, table

MODEL, QUICKSTART = "--model.init_args.", Path("runs/quickstart")
MEMBERS, FLIPPED, EVERY = 5, 0.25, 15
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
COMBINED = f"{MODEL}reward.init_args.combine"
VARIANTS = {
    "one model": (),
    "mean": (COMBINED, "mean"),
    "WCO": (COMBINED, "worst"),
    "UWO, coef 0.1": (COMBINED, "uncertainty"),
    "UWO, coef 0.5": (COMBINED, "uncertainty", f"{MODEL}reward.init_args.coef", "0.5"),
}
COLUMNS = {
    **{"start": ("start", 3), "best": ("best", 3), "last": ("last", 3), "lost": ("best less last", 3)},
    "reward": ("reward at the end", 2),
}


def flipped_pairs(out: Path) -> Path:
    """Write the quickstart's pairs with a share of labels flipped."""
    path, draw = out / "pairs.train.jsonl", Random(0)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in (QUICKSTART / "world" / path.name).open(encoding="utf-8")]
        for row in rows:
            if draw.random() < FLIPPED:
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def members(out: Path) -> list[str]:
    """Train the reward models that are not there yet."""
    from prl.cli.app import run_stage

    pairs, found = flipped_pairs(out), []
    for seed in range(MEMBERS):
        run = out / f"member.{seed}"
        found.append(str(run / "model"))
        if not (run / "model").is_dir():
            own = ["--run_dir", str(run), "--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
            own += ["--data.init_args.train.path", str(pairs), "--overwrite", "true", *QUIET]
            run_stage(["fit", "--config", "configs/quickstart/bradley_terry.yaml", *own])
    return found


def scales(paths: list[str]) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of what each reward model says of the validation responses."""
    from prl.rewards.scalar import ScalarReward

    lines = (QUICKSTART / "world" / "pairs.validation.jsonl").open(encoding="utf-8")
    said = [(row["prompt"], row[side]) for row in map(json.loads, lines) for side in ("chosen", "rejected")]
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in said]
    means, stds = [], []
    for path in paths:
        source = ScalarReward(path)
        source.load()
        rewards = source.rewards(prompts, [text for _, text in said])
        means.append(float(rewards.mean()))
        stds.append(float(rewards.std()))
    return means, stds


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make one run, and read true quality and reward from its validations."""
    from prl.cli.app import run_stage

    paths, run = members(out), out / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}"
    paths = [paths[seed % MEMBERS]] if name == "one model" else paths
    means, stds = scales(paths)
    run_stage(
        [
            *("fit", "--config", "configs/quickstart/pairwise_ppo.yaml", "--config", "configs/methods/ensemble.yaml"),
            *("--run_dir", str(run), "--overwrite", "true", "--seed_everything", str(seed)),
            *("--data.init_args.seed", str(seed), f"{MODEL}reward.init_args.paths", json.dumps(paths)),
            *(f"{MODEL}reward.init_args.means", json.dumps(means), f"{MODEL}reward.init_args.stds", json.dumps(stds)),
            *(f"{MODEL}kl.coef", "0", f"{MODEL}iterations", "120", "--trainer.num_sanity_val_steps=-1"),
            *("--trainer.val_check_interval", str(EVERY), "--checkpoint.keep", "1", *QUIET),
            *VARIANTS[name],
            *overrides,
        ]
    )
    lines = with_gold(run)
    gold = [line["gold"] for line in lines]
    found = {"start": gold[0], "best": max(gold), "last": gold[-1], "lost": max(gold) - gold[-1], "golds": gold}
    return {**found, "reward": lines[-1]["win_rate"]}


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/ensembles", VARIANTS)
    print(table(make_missing(options, train), "reward", COLUMNS))


if __name__ == "__main__":
    main()
