"""A planted task where a critique is needed: judging answers to the quickstart's tasks, which have to be worked out.

Takes a finished quickstart at runs/quickstart. All judges have the same size and start from the same model: the
quickstart's supervised one, trained a little more on its demonstrations behind two other answers, as a judge reads them
(no labels), so that it can answer where a thought begins. All learn from the first PAIRS pairs. `direct` reads its
verdict at once, as the quickstart's does: from both orders, and from its responses as text; `direct, equal compute`
takes as many passes as the thoughts cost. `direct, verdict alone` has the template, the one order, the learning rate
and the only loss of those that think. These write an answer of their own first, at most eight tokens. `likelihood`
(2510.15242) and `verdict reward` learn from the labels alone. `critiques, likelihood` gets the right answer as the
critique of each pair for the first half of its steps. `critiques alone, longer` has them throughout, in four times the
steps and in both orders, to tell whether verdicts can learn to read them. Accuracy is that of the validation pairs,
with both orders; seconds are of the whole training. All variants of a seed take about an hour of an idle core. Each run
is a line in benchmarks/results/reasoning_judge.jsonl, and is not repeated.
"""

import time
from pathlib import Path
from random import Random
from typing import Any

from online_inputs import QUICKSTART, fit_model, read_rows, write_rows

from runs import missing_runs, run_options, table

MODEL, OUT = "--model.init_args.", Path("runs/reasoning_judge")
RESULTS = Path("benchmarks/results/reasoning_judge.jsonl")
WORLD = QUICKSTART / "world"
PAIRS, STEPS = 16_000, 1000
THOUGHTS = ("--config", "configs/methods/reasoning_judge.yaml")
REWARD = f"{MODEL}objective", "prl.objectives.reward.VerdictReward"
VARIANTS: dict[str, tuple[str, ...]] = {
    "direct": (),
    "direct, equal compute": ("--trainer.max_steps", str(4 * STEPS)),
    "direct, verdict alone": (
        *(f"{MODEL}order", "random", f"{MODEL}text_coef", "0.0", f"{MODEL}optimization.learning_rate", "1.0e-3"),
        *(f"{MODEL}template.text", "{{ response_a }}\n{{ response_b }}\n{{ prompt }}\n"),
    ),
    "likelihood": THOUGHTS,
    "verdict reward": (*THOUGHTS, *REWARD),
    "critiques, likelihood": THOUGHTS,
    "critiques alone, longer": (*THOUGHTS, f"{MODEL}order", "both", f"{MODEL}optimization.learning_rate", "1.5e-3"),
}
COLUMNS = {
    "accuracy": ("accuracy", 3),
    "nll": ("nll", 3),
    "ece": ("ece", 3),
    "one_sample": ("accuracy, one thought", 3),
    "tokens": ("tokens of a pair", 1),
    "unfinished": ("unfinished", 3),
    "right": ("thoughts that are the answer", 3),
    "accuracy_right": ("accuracy of one reading behind them", 3),
    "accuracy_wrong": ("behind other thoughts", 3),
    "seconds": ("seconds", 0),
}


def start() -> Path:
    """Train the model that all judges start from: answers to a prompt behind two other answers, and to it alone."""
    path, draw = OUT / "answers.jsonl", Random(0)
    if not path.exists():
        demonstrations = read_rows(WORLD / "demonstrations.train.jsonl")
        known: dict[str, list[str]] = {}
        for row in demonstrations:
            known.setdefault(row["prompt"], []).append(row["completion"])
        rows = demonstrations[: PAIRS // 2]
        for pair in read_rows(WORLD / "pairs.train.jsonl")[:PAIRS]:
            if pair["prompt"] in known:
                both = [pair["chosen"], pair["rejected"]]
                draw.shuffle(both)
                prompt = "\n".join([*both, pair["prompt"]])
                rows.append({"prompt": prompt, "completion": draw.choice(known[pair["prompt"]])})
        write_rows(path, rows)
    supervised = str(QUICKSTART / "supervised" / "model")
    own = [f"{MODEL}model.config", "null", f"{MODEL}model.tokenizer", "null", f"{MODEL}model.path", supervised]
    own += [f"{MODEL}max_length", "96", f"{MODEL}optimization.learning_rate", "1e-3"]
    train = ("--data.init_args.train.path", str(path))
    held_out = ("--data.init_args.validation.path", str(WORLD / "demonstrations.validation.jsonl"))
    steps = ("--trainer.max_steps", "800", "--trainer.limit_val_batches", "0")
    return fit_model(OUT / "start", "--config", "configs/quickstart/supervised.yaml", *own, *train, *held_out, *steps)


def pairs(*, critiques: bool) -> Path:
    """Write the training pairs, with the right answer as their critique or without."""
    from prl.quickstart.world import right_answer

    path = OUT / ("critiques.jsonl" if critiques else "pairs.jsonl")
    if not path.exists():
        rows = read_rows(WORLD / "pairs.train.jsonl")[:PAIRS]
        write_rows(path, [{**row, "critique": right_answer(row["prompt"])} if critiques else row for row in rows])
    return path


def fit(run: Path, seed: int, model: Path, *settings: str, critiques: bool = False, steps: int = STEPS) -> Path:
    """Train one judge, unless it is there."""
    own = ("--seed_everything", str(seed), "--data.init_args.seed", str(seed), f"{MODEL}passport_pairs", "0")
    of_run = (
        "--trainer.max_steps",
        str(steps),
        "--trainer.limit_val_batches",
        "0",
        "--checkpoint.every_n_batches",
        "500",
    )
    rows = ("--data.init_args.train.path", str(pairs(critiques=critiques)))
    held_out = ("--data.init_args.validation.path", str(WORLD / "pairs.validation.jsonl"))
    base = ("--config", "configs/quickstart/generative_reward.yaml")
    return fit_model(run, *base, *of_run, *settings, f"{MODEL}model.path", str(model), *rows, *held_out, *own)


def measure(model: Path) -> dict[str, float]:
    """Judge the validation pairs in both orders."""
    from prl.data import DataSource, PreferencePair, load_records
    from prl.evaluation.judge.report import judge_report
    from prl.judge import load_judge
    from prl.judge.examination import judge_pairs

    loaded: Any = load_judge(model)
    records = load_records(DataSource(str(WORLD / "pairs.validation.jsonl")), PreferencePair).records
    report = judge_report(judge_pairs(loaded, records))
    found = {"accuracy": report["accuracy"]["mean"], "nll": report["nll"]["mean"], "ece": report["ece"]}
    if "reasons" in report:
        reasons = report["reasons"]
        found |= {"one_sample": reasons["samples"]["1"]["accuracy"]["mean"], "tokens": reasons["tokens"]["mean"]}
        found |= {"unfinished": reasons["unfinished"], **by_thought(loaded, records)}
    return found


def by_thought(judge: Any, records: list[Any]) -> dict[str, float]:
    """Compute how often the first thought of a reading is the right answer, and its verdict right where it is and not.

    Args:
        judge: one that has just judged the records.
        records: validation pairs, whose chosen response is the better one.
    """
    from prl.quickstart.world import right_answer

    found: dict[bool, list[float]] = {True: [], False: []}
    for order, sign in ((0, 1.0), (1, -1.0)):
        sides = [(each.chosen, each.rejected) for each in records]
        asked = [(each.prompt, *both[:: int(sign)]) for each, both in zip(records, sides, strict=True)]
        readings = [judge.encoder.compare(each.prompt, *both)[order] for each, both in zip(records, sides, strict=True)]
        thoughts = judge.reasoner.think(judge.model, readings, judge.max_batch_tokens, samples=1, seed=0)
        margins = (sign * judge.reasons_of(asked).margins[:, 0]).tolist()
        for each, thought, margin in zip(records, thoughts, margins, strict=True):
            written = judge.encoder.tokenizer.decode(list(thought.ids))
            right = written == right_answer(each.prompt[0]["content"])
            found[right].append(0.5 if margin == 0 else float(margin > 0))
    number = {right: max(1, len(some)) for right, some in found.items()}
    return {
        "right": len(found[True]) / (len(found[True]) + len(found[False])),
        "accuracy_right": sum(found[True]) / number[True],
        "accuracy_wrong": sum(found[False]) / number[False],
    }


def train(name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train and measure one judge."""
    model, run = start(), OUT / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}"
    began = time.perf_counter()
    settings, steps = (*VARIANTS[name], *overrides), STEPS
    if name.startswith("critiques"):
        first = (*settings, f"{MODEL}thoughts", "0", f"{MODEL}kl_coef", "0")
        first = (*first, f"{MODEL}objective", "prl.objectives.reward.Pairwise")
        if name.endswith("longer"):
            judge = fit(run / "critiques", seed, model, *first, critiques=True, steps=4 * STEPS)
            return {"seconds": time.perf_counter() - began, **measure(judge)}
        model, steps = fit(run / "critiques", seed, model, *first, critiques=True, steps=STEPS // 2), STEPS // 2
    judge = fit(run / "labels", seed, model, *settings, steps=steps)
    return {"seconds": time.perf_counter() - began, **measure(judge)}


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, str(OUT), VARIANTS)
    rows = missing_runs(RESULTS, options.wanted, lambda name, seed: train(name, seed, options.overrides))
    print(table(rows, "judge", COLUMNS))


if __name__ == "__main__":
    main()
