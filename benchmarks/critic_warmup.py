"""Explained variance of each kind of critic while the policy stands still, on the quickstart.

python benchmarks/critic_warmup.py --quickstart runs/quickstart --out runs/critic_warmup --iterations 40

Each kind trains alone for a number of iterations; explained variance is measured on each iteration's fresh rollouts
before they are learnt from. The policy's weights must be the same bits before and after.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from lightning import Callback

MODEL = "--model.init_args."
LORA = (f"{MODEL}policy.lora", json.dumps({"rank": 16, "alpha": 32}))
KINDS = {
    "own": (f"{MODEL}critic.kind", "own"),
    "shared": (f"{MODEL}critic.kind", "shared"),
    "adapter, rank 16": (f"{MODEL}critic.kind", "adapter", *LORA),
}


def weights_hash(model: Any) -> str:
    """Hash of everything in a policy that has nothing to do with a critic on its base model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        if ".critic." not in name:
            digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Watch(Callback):
    """Remembers explained variances, and the policy as it was."""

    def __init__(self) -> None:
        self.before = ""
        self.explained: list[float] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first iteration."""
        self.before = weights_hash(pl_module.policy)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """After each."""
        self.explained.append(float(trainer.callback_metrics["value/explained_var"]))


def train(run: Path, overrides: tuple[str, ...], quickstart: Path, iterations: int) -> dict[str, Any]:
    """Explained variance per iteration, and whether the policy is what it was."""
    from prl.cli.app import run_stage

    world = quickstart / "world"
    cli = run_stage(
        [
            *("fit", "--config", "configs/quickstart/pairwise_ppo.yaml", "--run_dir", str(run), "--overwrite", "true"),
            *(f"{MODEL}iterations", str(iterations), f"{MODEL}critic.warmup", str(iterations)),
            *("--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"),
            *("--trainer.enable_model_summary", "false", f"{MODEL}judge_gate.mode", "off"),
            *(f"--trainer.callbacks+={__name__}.Watch",),
            *(f"{MODEL}policy.path", str(quickstart / "supervised" / "model")),
            *(f"{MODEL}reward.init_args.path", str(quickstart / "judge" / "model")),
            *("--data.init_args.train.path", str(world / "prompts.train.jsonl")),
            *("--data.init_args.validation.path", str(world / "prompts.validation.jsonl")),
            *overrides,
        ]
    )
    watch = next(each for each in cli.trainer.callbacks if isinstance(each, Watch))
    return {"explained": watch.explained, "policy_unchanged": weights_hash(cli.model.policy) == watch.before}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot explained variance over iterations, raw and as a mean over the last eight."""
    from matplotlib.figure import Figure

    from prl.evaluation.figures import BLUE, GREEN, GREY, ORANGE

    figure = Figure(figsize=(7.2, 3.8), dpi=100, layout="tight")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    for (kind, each), colour in zip(found.items(), (BLUE, ORANGE, GREEN), strict=True):
        values = each["explained"]
        numbers = range(1, len(values) + 1)
        means = [sum(values[max(0, n - 8) : n]) / len(values[max(0, n - 8) : n]) for n in numbers]
        axes.plot(numbers, values, ".", color=colour, markersize=4, alpha=0.6)
        axes.plot(numbers, means, color=colour, label=kind)
    axes.set(xlabel="iteration, policy unchanged", ylabel="explained variance of returns")
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Print means over eight iterations each, one column per kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/critic_warmup"))
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--every", type=int, default=8)
    options = parser.parse_args()
    found = {
        kind: train(options.out / kind.partition(",")[0], overrides, options.quickstart, options.iterations)
        for kind, overrides in KINDS.items()
    }
    (options.out / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    draw(found, options.out / "explained_variance.png")
    print(f"| iterations | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}")
    for start in range(0, options.iterations, options.every):
        parts = [each["explained"][start : start + options.every] for each in found.values()]
        cells = " | ".join(f"{sum(part) / len(part):.3f}" for part in parts)
        print(f"| {start + 1} to {start + len(parts[0])} | {cells} |")
    print(f"| policy unchanged | {' | '.join(str(each['policy_unchanged']) for each in found.values())} |")


if __name__ == "__main__":
    main()
