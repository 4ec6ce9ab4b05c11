"""DPO's implicit reward beside a Bradley-Terry model, on the pairs they learnt from and on others (2409.03650).

Takes a finished quickstart at runs/quickstart. All rewards learn from its labelled pairs without those of two tasks,
from the same supervised model, in as many steps of as many pairs. They are measured on unseen prompts, with pairs of
four kinds: the world's own, of the tasks that were learnt; of the two that were not (prompt shift); samples of the
quickstart's PPO policy, and answers with one mistake beside answers with three (response shift). The better response is
the one of higher true quality, so no label of these pairs is wrong. A run that is in the results file already is not
repeated. How to compare both on files of one's own: docs/methods/reward.md.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from methods import MODEL, RATE, Method, arguments
from runs import make_missing, run_options, table

QUICKSTART = Path("runs/quickstart")
HELD_OUT = ("sort", "next")
"""Tasks of the world that are in no training pair."""
SETS = {"in": "in distribution", "prompts": "other tasks", "policy": "PPO's samples", "mistakes": "many mistakes"}
PAIRS = 800
"""Pairs of each set."""
STEPS = ("--trainer.max_steps", "1200", "--trainer.val_check_interval", "1200")
GENTLE = Method("preference", "dpo", STEPS)
FAR = Method("preference", "dpo", (*STEPS, f"{MODEL}objective.init_args.beta", "1.0", f"{MODEL}{RATE}", "1.0e-4"))
TRAININGS = {"Bradley-Terry": Method("bradley_terry", None, STEPS), "DPO": FAR, "DPO, beta 0.1": GENTLE}
REWARDS = {
    "Bradley-Terry": ("Bradley-Terry", {}),
    "DPO, sum": ("DPO", {"beta": 1.0}),
    "DPO, mean of tokens": ("DPO", {"beta": 1.0, "per_token": True}),
    "DPO, beta 0.1, sum": ("DPO, beta 0.1", {"beta": 0.1}),
}
"""Reward -> the training that it is read from, and settings of the implicit reward; both DPO rewards share a policy."""
COLUMNS = {f"accuracy_{name}": (f"accuracy, {words}", 3) for name, words in SETS.items()}
COLUMNS |= {"nll_in": ("nll, in distribution", 3), "ece_in": ("ece, in distribution", 3), "ties": ("ties", 3)}


def task(prompt: str) -> str:
    """Name the task of a prompt."""
    return prompt.partition(" ")[0]


def prompts_of(tasks: set[str], draw: Random) -> Iterator[str]:
    """Draw unseen prompts of some tasks, for ever."""
    from prl.quickstart.world import sample_prompt

    while True:
        prompt = sample_prompt(draw, "validation")
        if task(prompt) in tasks:
            yield prompt


def of_the_world(prompt: str, draw: Random) -> list[str]:
    """Draw two responses as the world's annotators see them: right, or with one or two mistakes."""
    return mistaken(prompt, draw, draw.choices((0, 1, 2), (35, 40, 25), k=2))


def of_many_mistakes(prompt: str, draw: Random) -> list[str]:
    """Draw a response with one mistake and one with three."""
    return mistaken(prompt, draw, [1, 3])


def mistaken(prompt: str, draw: Random, mistakes: list[int]) -> list[str]:
    """Make responses of the right answer with so many mistakes each."""
    from prl.quickstart.world import corrupt, right_answer

    found = []
    for number in mistakes:
        response = right_answer(prompt)
        for _ in range(number):
            response = corrupt(draw, prompt, response)
        found.append(response)
    return found


def policy_pairs(tasks: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Sample the quickstart's PPO policy, eight responses to a prompt, and draw two different ones of each."""
    from prl.config import ModelSource, Sampling
    from prl.data import AnchoredPrompt
    from prl.rollouts.prompts import PromptSampler

    draw = Random("policy")
    prompts = [next(prompts_of(tasks, draw)) for _ in range(3 * PAIRS)]
    records = [record for prompt in prompts for record in AnchoredPrompt.parse({"prompt": prompt})]
    source, sampling = ModelSource(path=str(QUICKSTART / "ppo" / "model")), Sampling(12, 1.0, 8)
    sampler = PromptSampler(source, sampling, records, name="prompts", max_prompt_length=64, seed=0)
    for start in range(0, len(records), 40):
        texts = sampler.sample(start, 40).texts
        for at, prompt in enumerate(prompts[start : start + 40]):
            different = sorted(set(texts[8 * at : 8 * at + 8]) - {""})
            if len(different) > 1:
                yield prompt, draw.sample(different, 2)


def prepare(folder: Path) -> None:
    """Write the training pairs without the tasks that are held out, and the pairs of each set."""
    from prl.quickstart.world import FAMILIES, gold_quality

    learnt = set(FAMILIES) - set(HELD_OUT)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        lines = (QUICKSTART / "world" / f"pairs.{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if task(json.loads(line)["prompt"]) in learnt]
        (folder / f"pairs.{split}.jsonl").write_text("".join(kept), encoding="utf-8")

    def drawn(tasks: set[str], make: Any, seed: str) -> Iterator[tuple[str, list[str]]]:
        draw = Random(seed)
        return ((prompt, make(prompt, draw)) for prompt in prompts_of(tasks, draw))

    candidates = {
        "in": drawn(learnt, of_the_world, "in"),
        "prompts": drawn(set(HELD_OUT), of_the_world, "prompts"),
        "policy": policy_pairs(learnt),
        "mistakes": drawn(learnt, of_many_mistakes, "mistakes"),
    }
    for name, pairs in candidates.items():
        path, rows = folder / f"{name}.jsonl", []
        if path.exists():
            continue
        for prompt, (one, other) in pairs:
            worth = gold_quality(prompt, one) - gold_quality(prompt, other)
            if worth != 0:
                better, worse = (one, other) if worth > 0 else (other, one)
                rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
            if len(rows) == PAIRS:
                break
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained(name: str, seed: int, out: Path, overrides: list[str]) -> Path:
    """Make a training unless its model is there; return the model."""
    from prl.cli.app import run_stage

    run = out / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}"
    if not (run / "model").exists():
        data = out / "data"
        paths = [
            each
            for side in ("train", "validation")
            for each in (f"--data.init_args.{side}.path", f"{data}/pairs.{side}.jsonl")
        ]
        run_stage(
            [
                *("fit", *arguments(TRAININGS[name], QUICKSTART), *paths, "--run_dir", str(run), "--overwrite", "true"),
                *("--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--checkpoint.keep", "1"),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", *overrides),
            ]
        )
    return run / "model"


def measure(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Train a reward where it is missing, and measure it on all sets by the report of a judge."""
    from prl.data import DataSource, PreferencePair, load_records
    from prl.judge import load_judge
    from prl.judge.examination import examine, judge_pairs

    training, settings = REWARDS[name]
    if settings:
        settings = {**settings, "reference": str(QUICKSTART / "supervised" / "model"), "max_length": 64}
    judge = load_judge(trained(training, seed, out, overrides), **settings)
    found: dict[str, Any] = {}
    for each in SETS:
        pairs = load_records(DataSource(str(out / "data" / f"{each}.jsonl")), PreferencePair).records
        judged = judge_pairs(judge, pairs)
        report = examine(judge, pairs, judged, probes=False)
        found |= {f"accuracy_{each}": report["accuracy"]["mean"], f"nll_{each}": report["nll"]["mean"]}
        found[f"ece_{each}"] = report["ece"]
        if each == "in":
            found["ties"] = float((judged.verdict.win_logit == 0).float().mean())
    return found


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/implicit_reward", REWARDS)
    prepare(options.out / "data")
    rows = make_missing(options, measure)
    print(table(rows, "reward", COLUMNS))


if __name__ == "__main__":
    main()
