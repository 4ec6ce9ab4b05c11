"""Time of each phase over the least that its work needs on this machine, and tokens computed over tokens needed.

python benchmarks/floors.py --json floors.json
python benchmarks/floors.py --size smollm2 --model DIR --json floors_135m.json
python benchmarks/floors.py --parts tokens --pairs PAIRS.jsonl

The least is floating-point operations over the rate of a large matrix product, or bytes over the rate of reading or
copying, all measured in the same process: needed_work.py says what is counted, ppo_iteration.py for which phase.

phases    an iteration of pairwise PPO; with a critic of its own, and for smollm2 with adapters
pairs     a step of DPO and of the judge
tokens    tokens that a policy or judge reads in an epoch of pairs, over those in them, by a tiny model: `real` counts
          each row as it is read, `distinct` what the rows of a pair begin with once

Without `--pairs` the lengths are random, like those of the answers of many models to short instructions: log-normal
with medians of 22 tokens for prompts and 150 for responses, and long tails.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beside_trl import TRAINER, add_worker_options, run_worker
from needed_work import ADAMW_BYTES, Rates, Shape, Tokens, distinct_tokens, measure_rates, plain_tokens
from ppo_inputs import SIZES, Work, mib_of, prepare, write_model
from ppo_iteration import add_iteration_options, clock_for, run_prl
from ppo_vs_trl import figures_of

PARTS = ("phases", "pairs", "tokens")
PROMPT_LENGTHS, RESPONSE_LENGTHS = (3.1, 0.85), (5.0, 1.0)
"""Mean and standard deviation of the logarithm of random lengths."""
LONGEST = 1024


def write_pairs(path: Path, count: int, longest: int) -> None:
    """Write pairs of random letters, each a token of the quickstart's tokenizer."""
    draw = random.Random(0)

    def text(lengths: tuple[float, float], most: int) -> str:
        size = min(most, max(1, round(draw.lognormvariate(*lengths))))
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=size))

    lines = []
    for _ in range(count):
        row = {"prompt": [{"role": "user", "content": text(PROMPT_LENGTHS, longest // 4)}]}
        row |= {side: text(RESPONSE_LENGTHS, longest // 4) for side in ("chosen", "rejected")}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")


class CountedTokens:
    """Counts the tokens that a model reads with gradients."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        model.get_input_embeddings().register_forward_pre_hook(self._add)

    def _add(self, _: Any, arguments: tuple[Any, ...]) -> None:
        import torch

        if torch.is_grad_enabled():
            self.count += arguments[0].numel()


def build_stage(options: argparse.Namespace) -> Any:
    """Configure DPO, or the judge with this `order`."""
    from lightning_modules import GenerativeRewardModule, PreferenceModule
    from prl.config import ModelSource, Optimization
    from prl.judge import JudgeTemplate

    source, optimization = ModelSource(path=str(options.model)), Optimization(learning_rate=1e-6)
    shared: Any = {"optimization": optimization, "max_length": options.max_length, "on_too_long": "skip"}
    if options.worker == "dpo":
        return PreferenceModule(source, **shared)
    template = JudgeTemplate("{{ prompt }}\n{{ response_a }}\n{{ response_b }}\n", chat=False)
    return GenerativeRewardModule(source, template=template, order=options.worker, passport_pairs=0, **shared)


def train_pairs(options: argparse.Namespace) -> dict[str, Any]:
    """Train two epochs on pairs as a worker; seconds of a step and tokens are those of the second."""
    import lightning
    import torch

    from datamodules import PreferencePairDataModule
    from prl.data import DataSource

    torch.set_num_threads(options.threads)
    now, ends, counted = clock_for(options.threads), list[float](), list[CountedTokens]()
    module, source = build_stage(options), DataSource(str(options.rows))
    data = PreferencePairDataModule(
        train=source, validation=source, batch_size=options.batch_size, on_invalid="skip", num_workers=0
    )

    class Steps(lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            counted[:] = [CountedTokens(module.model)]
            ends[:] = [now()]

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(now())

    trainer = lightning.Trainer(
        **TRAINER, accelerator="cpu", max_epochs=2, default_root_dir=options.folder, callbacks=[Steps()]
    )
    trainer.fit(module, data)
    steps, rows = len(ends) - 1, data.rows["train"]
    taken = [rows[index] for index in range(len(rows))]
    needed = needed_tokens(taken, options.worker)
    rates = measure_rates(now, mib=options.mib)
    share = steps * options.batch_size / len(taken)  # an epoch leaves out a last batch that is short
    return {
        **{"seconds": (ends[-1] - ends[0]) / steps, "steps": steps, "rates": asdict(rates)},
        "floor": share * floor_of_pairs(module, taken, options.worker, rates, steps) / steps,
        "computed_over_real": counted[0].count / (share * needed["real"].count),
        "computed_over_distinct": counted[0].count / (share * needed["distinct"].count),
    }


def rows_read(row: dict[str, Any], stage: str) -> list[list[int]]:
    """List the token ids that a model is to read of a pair."""
    if stage == "dpo":
        return [[*row["prompt"], *row["chosen"]], [*row["prompt"], *row["rejected"]]]
    return [row["chosen_first"], row["rejected_first"]][: 2 if stage == "both" else 1]


def needed_tokens(rows: list[dict[str, Any]], stage: str) -> dict[str, Tokens]:
    """Count the tokens of all pairs, each row by itself and what the rows of a pair begin with once."""
    read = [rows_read(row, stage) for row in rows]
    counts = {"real": plain_tokens, "distinct": distinct_tokens}
    return {name: sum(map(count, read), Tokens()) for name, count in counts.items()}


def floor_of_pairs(module: Any, rows: list[dict[str, Any]], stage: str, rates: Rates, steps: int) -> float:
    """Compute the least seconds of an epoch: three forward passes of what learns, one of the reference, AdamW."""
    shape, read = Shape.of(module.model), needed_tokens(rows, stage)["distinct"]
    work = 3 * shape.forward(read)
    if stage == "dpo":
        head = shape.head(sum(len(row["chosen"]) + len(row["rejected"]) for row in rows))
        work += 3 * head + shape.forward(read) + head
    trained = sum(each.numel() for each in module.parameters() if each.requires_grad)
    return work / rates.operations + steps * trained * ADAMW_BYTES / rates.copied


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that were asked for, each run in a process of its own."""
    found: dict[str, Any] = {"settings": {name: str(getattr(options, name)) for name in SETTINGS}}
    found |= {"load": [os.getloadavg()]}
    parts: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
        "phases": phases_part,
        "pairs": pairs_part,
        "tokens": tokens_part,
    }
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = parts[name](options, Path(folder))
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
        found["load"].append(os.getloadavg())
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def phases_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run iterations of PPO."""
    names = ("own", "adapter") if options.size == "smollm2" else ("own",)
    given = prepare(SIZES[options.size], options.model, folder, options.iterations)
    rows, given = given.pop("rows"), {**given, "threads": options.threads}
    runs = {name: [run_worker(__file__, name, options, rows, given)] for name in names}
    return figures_of({name: [{**run, "without_judge": 0.0} for run in some] for name, some in runs.items()})["phases"]


def pairs_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take steps of DPO and of judges in the size's own shape, on pairs of random lengths."""
    count = options.batch_size * (2 if options.size == "smollm2" else 6)
    return _on_pairs(options, folder, SIZES[options.size], count, 256, ("dpo", "random", "both"))


def tokens_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Count tokens with a tiny model, whose time is left out."""
    count = options.batch_size * (4 if options.size == "tiny" else 24)
    found = _on_pairs(options, folder, SIZES["tiny"], count, LONGEST, ("dpo", "random", "both"), options.pairs)
    return {
        name: {figure: run[f"computed_over_{figure}"] for figure in ("real", "distinct")} for name, run in found.items()
    }


def _on_pairs(
    options: argparse.Namespace,
    folder: Path,
    work: Work,
    count: int,
    longest: int,
    stages: tuple[str, ...],
    pairs: Path | None = None,
) -> dict[str, Any]:
    rows, model = pairs or folder / "pairs.jsonl", folder / "model"
    if pairs is None:
        write_pairs(rows, count, longest)
    write_model(work, model)
    given = {"model": model, "batch_size": options.batch_size, "max_length": LONGEST, "threads": options.threads}
    given["mib"] = mib_of(work)
    found = {name: run_worker(__file__, name, options, rows, given) for name in stages}
    return {name: {**run, "ratio_to_floor": run["seconds"] / run["floor"]} for name, run in found.items()}


SETTINGS = ("size", "model", "pairs", "threads", "iterations", "batch_size")


def main() -> None:
    """Print one JSON object; as a worker, that of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", help="folder of a causal language model; random weights of the size if none")
    parser.add_argument("--pairs", type=Path, help="preference file of the part `tokens`; a token is a character")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs of a step")
    parser.add_argument("--iterations", type=int, default=2, help="iterations that count")
    parser.add_argument("--max-length", type=int, default=LONGEST, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here, after every part")
    add_worker_options(parser)
    add_iteration_options(parser)
    options = parser.parse_args()
    workers = {"own": run_prl, "adapter": run_prl}
    if options.worker:
        print(json.dumps(workers.get(options.worker, train_pairs)(options)))
        return
    print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main()
