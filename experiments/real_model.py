"""Both claims on a model that was pre-trained on text: SmolLM2-135M-Instruct with LoRA, on short instructions.

The protocol is docs/results/claims/real_model.md, fixed before the first run. Needs models/smollm2 (docs/smollm2.md).
For each seed the start model answers training prompts, its answers become pairs with labels of a known law, a
generative judge and a Bradley-Terry model learn from them, at rates that are searched once, and policies learn from
these two. Each stage is a line in experiments/results/real_model.jsonl and is not repeated.

    python -m experiments.real_model --seeds 3
    python -m experiments.real_model --small
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.online_inputs import read_rows, write_rows
from benchmarks.runs import missing_runs, table
from experiments import real_model_inputs as inputs
from experiments.figures import draw_policies
from experiments.instructions import Instruction, quality
from experiments.judges import measure
from experiments.pages import IMAGES, publish
from experiments.policies import ARMS as POLICY_ARMS
from experiments.policies import Arm
from experiments.training import as_arguments, best_setting, timed_fit
from experiments.trajectories import policy_tables, trajectory
from experiments.verdicts import every_run, judge_tables, search_table

RESULTS = Path("experiments/results/real_model.jsonl")
START = "start"
JUDGES = {"judge": "generative_reward", "bradley_terry": "bradley_terry"}
"""Reward models, as the arms of policies name them, and their configs in configs/smollm2_cpu."""
TITLES = {"judge": "generative", "bradley_terry": "Bradley-Terry"}
ARMS: dict[str, Arm] = {
    name: POLICY_ARMS[name] for name in ("pairwise PPO", "pairwise PPO, Bradley-Terry", "scalar PPO, normalised")
}
KL_COEF = 0.01
CELL = "instructions"
POLICY_FIGURES = {
    "gold": ("gold", 3),
    "gold_unseen": ("gold, unseen combinations", 3),
    "fulfilled": ("fulfilled", 3),
    "tokens": ("tokens", 1),
    "finished": ("finished", 3),
    "kl": ("KL", 2),
    "cpu_seconds": ("processor seconds", 0),
}


def upper_half(model: Path) -> str:
    """Write the pattern of the linear layers of a model's upper half, which adapters are put on."""
    layers = json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    return rf"model\.layers\.({'|'.join(map(str, range(layers // 2, layers)))})\..*_proj"


@dataclass(frozen=True)
class Study:
    """The model that all start from, sizes, and where runs and results lie."""

    model: Path
    sizes: inputs.Sizes
    out: Path
    results: Path

    # ---- rows

    def answers(self, seed: int) -> list[dict[str, Any]]:
        """Sample the start model's responses to the prompts of a seed, or of the test, unless they are there."""
        test = seed == inputs.TEST_SEED
        asked = inputs.held_out_instructions(self.sizes) if test else inputs.seed_instructions(seed, self.sizes)
        return inputs.candidates(self.model, asked, self.folder(seed) / "candidates", seed)

    def folder(self, seed: int) -> Path:
        """Return the folder of a seed, or of the test."""
        return self.out / (inputs.TEST if seed == inputs.TEST_SEED else str(seed))

    def pairs(self, seed: int) -> Path:
        """Write the training pairs of a seed."""
        rows = self.answers(seed)[: self.sizes.prompts]
        return write_rows(self.folder(seed) / "pairs.jsonl", inputs.labelled_pairs(rows, str(seed), self.sizes.pairs))

    def prompts(self, seed: int) -> Path:
        """Write the prompts of a seed, or of the test, with their anchors."""
        return write_rows(self.folder(seed) / "prompts.jsonl", inputs.anchored_prompts(self.answers(seed)))

    def start(self, seed: int) -> dict[str, Any]:
        """Describe the start model's responses to the training prompts of a seed, and to those of the test."""
        began = time.process_time()
        own, test = self.answers(seed), self.answers(inputs.TEST_SEED)
        figures = {**inputs.summary(own), "cpu_seconds": time.process_time() - began}
        return {
            **figures,
            "pairs": len(read_rows(self.pairs(seed))),
            "prompts": len(read_rows(self.prompts(seed))),
            "test_gold": inputs.summary(test)["gold"],
            "test_gold_unseen": inputs.summary(test[self.sizes.validation :])["gold"],
        }

    # ---- reward models

    def reward_model(self, kind: str, seed: int, rate: float) -> tuple[Path, dict[str, Any]]:
        """Train a reward model on the pairs of a seed, unless it is there; return its folder, pairs, steps, seconds."""
        path = self.pairs(seed)
        count = len(read_rows(path))
        steps = max(1, count // self.sizes.pairs_a_step)
        settings: dict[str, Any] = {
            "seed_everything": seed,
            "data.init_args.seed": seed,
            "data.init_args.train.path": path,
            "data.init_args.train.limit": count,
            "data.init_args.batch_size": self.sizes.pairs_a_step,
            "data.init_args.on_invalid": "error",
            "trainer.max_steps": steps,
            "checkpoint.every_n_batches": steps,
            "model.init_args.model.path": self.model,
            "model.init_args.model.lora.target_modules": upper_half(self.model),
            "model.init_args.on_too_long": "error",
            "model.init_args.optimization.learning_rate": rate,
        }
        config = f"configs/smollm2_cpu/{JUDGES[kind]}.yaml"
        model, seconds = timed_fit(self.folder(seed) / f"{kind}.{rate}", "--config", config, *as_arguments(settings))
        return model, {"rate": rate, "pairs": count, "steps": steps, "seconds": seconds}

    def rate(self, kind: str) -> float:
        """Return the learning rate with the least negative log-likelihood on unseen training prompts, searched once."""
        if len(self.sizes.rates) == 1:
            return self.sizes.rates[0]
        seed = inputs.TUNING_SEED

        def try_rate(rate: float) -> dict[str, Any]:
            model, line = self.reward_model(kind, seed, rate)
            return {**line, **measure(model, inputs.true_pairs(self.answers(seed)[self.sizes.prompts :]))}

        return best_setting(
            self.results, f"tuning {kind}", self.sizes.rates, seed, try_rate, lambda line: -line["nll"], factor=2
        )

    def judge(self, kind: str, seed: int) -> dict[str, Any]:
        """Train a reward model at its rate, and measure it on pairs of the test prompts."""
        model, line = self.reward_model(kind, seed, self.rate(kind))
        test = self.answers(inputs.TEST_SEED)
        unseen = measure(model, inputs.true_pairs(test[self.sizes.validation :]))
        return {**line, **measure(model, inputs.true_pairs(test)), "accuracy_unseen": unseen["accuracy"]}

    # ---- policies

    def policy(self, name: str, seed: int) -> dict[str, Any]:
        """Train a policy on the rewards of the seed's reward model, and measure its validations against the truth."""
        arm, sizes = ARMS[name], self.sizes
        model, _ = self.reward_model(arm.model, seed, self.rate(arm.model))
        shaping = [{"class_path": "prl.rewards.shapers.RunningMeanStd"}] if "running_mean_std" in arm.overlays else []
        settings: dict[str, Any] = {
            "seed_everything": seed,
            "data.init_args.seed": seed,
            "data.init_args.train.path": self.prompts(seed),
            "data.init_args.validation.path": self.prompts(inputs.TEST_SEED),
            "data.init_args.batch_size": sizes.prompts_an_iteration,
            "trainer.val_check_interval": sizes.every,
            "checkpoint.every_n_batches": sizes.iterations,
            "model.init_args.iterations": sizes.iterations,
            "model.init_args.policy.path": self.model,
            "model.init_args.policy.lora.target_modules": upper_half(self.model),
            "model.init_args.reward": json.dumps({"class_path": arm.reward, "init_args": {"path": str(model)}}),
            "model.init_args.judge_gate.mode": "off",
            "model.init_args.update.microbatch_size": sizes.prompts_an_iteration * inputs.RESPONSES // 2,
            "model.init_args.kl.coef": KL_COEF,
            "model.init_args.shaping": json.dumps(shaping),
            "model.init_args.sampling.max_new_tokens": inputs.MAX_NEW_TOKENS,
            "model.init_args.sampling.temperature": inputs.TEMPERATURE,
            "model.init_args.sampling.per_prompt": inputs.RESPONSES,
        }
        paths = ("configs/smollm2_cpu/pairwise_ppo.yaml", *(f"configs/methods/{each}.yaml" for each in arm.overlays))
        run = self.folder(seed) / name.replace(", ", "_").replace(" ", "_")
        configs = [text for path in paths for text in ("--config", path)]
        _, seconds = timed_fit(run, *configs, *as_arguments(settings))
        points = trajectory(run, self.figures)
        return {"judge": seed, "coef": KL_COEF, "cpu_seconds": seconds, **points[-1], "points": points}

    def figures(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Measure the responses of a validation against the truth."""
        asked = inputs.held_out_instructions(self.sizes)
        unseen = {each.text for each in asked[self.sizes.validation :]}
        by_text: dict[str, Instruction] = {each.text: each for each in asked}
        found = {row["prompt"][-1]["content"]: row for row in rows}
        gold = {text: quality(by_text[text].checks, row["response"].strip()) for text, row in found.items()}
        return {
            "gold": statistics.fmean(gold.values()),
            "gold_unseen": statistics.fmean(value for text, value in gold.items() if text in unseen),
            "fulfilled": statistics.fmean(value == 1 for value in gold.values()),
            "tokens": statistics.fmean(row["length"] for row in rows),
            "finished": 1 - statistics.fmean(row["truncated"] for row in rows),
        }

    # ---- all of it

    def run(self, variant: str, seed: int) -> dict[str, Any]:
        """Make one line of the study."""
        if variant == START:
            return self.start(seed)
        cell, _, title = variant.partition(": ")
        if cell == CELL:
            return self.judge(next(kind for kind in JUDGES if TITLES[kind] == title), seed)
        return self.policy(variant.partition(" | ")[0], seed)

    def wanted(self, seeds: range) -> list[tuple[str, int]]:
        """List the lines in the order in which they are made."""
        judges = [f"{CELL}: {title}" for title in TITLES.values()]
        return [
            (variant, seed)
            for seed in seeds
            for variant in (START, *judges, *(f"{name} | judge {seed}" for name in ARMS))
        ]


def tables(lines: list[dict[str, Any]]) -> str:
    """Write the tables of the start, the reward models and the policies, with verdicts, as Markdown."""
    start = {"gold": ("gold", 3), "deviation_within": ("deviation within a prompt", 3), "fulfilled": ("fulfilled", 3)}
    start |= {"tokens": ("tokens", 1), "finished": ("finished", 3), "pairs": ("pairs", 0)}
    policies = [line for line in lines if "points" in line]
    named = [{**line, "variant": line["variant"].partition(" | ")[0]} for line in policies]
    parts = [table([line for line in lines if line["variant"] == START], "responses", start)]
    parts.append(judge_tables(lines, [CELL], list(TITLES.values())))
    parts.append(table(named, "policy, last validation", POLICY_FIGURES))
    parts += [policy_tables(policies, list(ARMS)), every_run(policies, "gold")]
    parts.append(every_run([line for line in lines if line["variant"].startswith(CELL)], "accuracy"))
    parts.append(search_table([line for line in lines if line["variant"].startswith("tuning ")], "nll"))
    return "\n\n".join(parts)


def main() -> None:
    """Make the lines that are missing, then draw the figure and write the tables: into the page for the whole study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="3, or 1 with --small")
    parser.add_argument("--small", action="store_true", help="half an hour of one core; says whether all stages work")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--out", type=Path, help="runs/claims/real_model")
    parser.add_argument("--results", type=Path, help=str(RESULTS))
    options = parser.parse_args()
    name = f"real_model{'_small' if options.small else ''}"
    study = Study(
        options.model,
        inputs.SMALL if options.small else inputs.FULL,
        options.out or Path("runs/claims") / name,
        options.results or RESULTS.with_name(f"{name}.jsonl"),
    )
    seeds = range(options.seeds or (1 if options.small else 3))
    lines = missing_runs(study.results, study.wanted(seeds), study.run)
    if study.results == RESULTS:
        draw_policies(lines, list(ARMS), IMAGES / "real_model.png")
        publish("real_model", tables(lines))
    else:
        draw_policies(lines, list(ARMS), study.out / "policies.png")
        print(tables(lines))


if __name__ == "__main__":
    main()
