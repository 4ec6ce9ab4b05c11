"""Training speed and peak memory of prl's judges beside TRL's RewardTrainer, as ratios.

python -m venv trl-env && trl-env/bin/pip install torch==2.13.0 trl
python benchmarks/judge_vs_trl.py --trl-python trl-env/bin/python --model DIR --pairs FILE --json judge_vs_trl.json

Same backbone, pairs, maximum length, batch size, dtype, threads, optimizer and clipping; every weight is trained, and
neither side checkpoints activations. Each run is a process of its own that trains for one whole epoch, so that all read
the same pairs in whatever order, and the contestants take turns. Only pairs whose two rows fit are used, since TRL
leaves the others out; the generative judge reads both responses in one row of the same maximum length, and cuts what
does not fit.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from beside_trl import TRAINER, add_worker_options, ratios, run_worker

CONTESTANTS = ("trl", "bradley_terry", "random", "both")


class Clock:
    """From the first step of an epoch to the end of the last one."""

    def __init__(self) -> None:
        self.start, self.end, self.steps = 0.0, 0.0, 0

    def begin(self) -> None:
        """Start the clock at the first step."""
        self.start = time.perf_counter()

    def tick(self) -> None:
        """One step is done."""
        self.end, self.steps = time.perf_counter(), self.steps + 1

    def result(self, batch_size: int) -> dict[str, float]:
        """Pairs per second, and the most memory that the process ever held."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            "pairs_per_s": self.steps * batch_size / (self.end - self.start),
            "peak_gib": peak,
            "steps": self.steps,
        }


def train_with_trl(options: argparse.Namespace) -> dict[str, Any]:
    """RewardTrainer of the installed TRL. Imports nothing of prl."""
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    clock = Clock()

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    dtype = getattr(torch, options.dtype)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model.config.pad_token_id = tokenizer.pad_token_id
    settings = trl.RewardConfig(
        output_dir=options.folder,
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=1,
        max_length=options.max_length,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = load_dataset("json", data_files=options.rows, split="train", cache_dir=options.folder)
    trainer = trl.RewardTrainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Steps()]
    )
    trainer.train()
    return {**clock.result(options.batch_size), "version": trl.__version__, "num_pairs": len(trainer.train_dataset)}


def train_with_prl(options: argparse.Namespace) -> dict[str, Any]:
    """prl's stage of this name through a plain Lightning trainer."""
    import lightning

    from datamodules import PreferencePairDataModule
    from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
    from prl.config import ModelSource
    from prl.data import DataSource

    clock = Clock()

    class Steps(lightning.Callback):
        def on_train_start(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    shared: dict[str, Any] = {
        "model": ModelSource(path=options.model, dtype=options.dtype),
        "max_length": options.max_length,
        "passport_pairs": 0,
    }
    if options.worker == "bradley_terry":
        module: Any = BradleyTerryRewardModule(**shared)
    else:
        module = GenerativeRewardModule(order=options.worker, **shared)
    source = DataSource(options.rows)  # nothing is set aside: the validation set is the same, and not looked at
    data = PreferencePairDataModule(train=source, validation=source, batch_size=options.batch_size)
    trainer = lightning.Trainer(
        **TRAINER,
        accelerator="auto",
        max_epochs=1,
        default_root_dir=options.folder,
        callbacks=[Steps()],
    )
    trainer.fit(module, data)
    return clock.result(options.batch_size)


def write_rows(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Take the first pairs that fit, as messages, and count the tokens of a pair in each form."""
    from prl.config import ModelSource
    from prl.data import DataSource, PreferencePair, load_records
    from prl.data.encoding import ScalarPairEncoder
    from prl.judge import ComparisonEncoder, JudgeTemplate
    from prl.models.loading import load_tokenizer

    tokenizer = load_tokenizer(ModelSource(path=options.model))
    scalar = ScalarPairEncoder(tokenizer, options.max_length, "skip")
    judge = ComparisonEncoder(tokenizer, JudgeTemplate(), options.max_length)
    rows, alone, together = [], [], []
    for record in load_records(DataSource(options.pairs), PreferencePair, "skip").records:
        if len(rows) == options.num_pairs:
            break
        row, comparison = scalar.encode(record), judge.encode(record)
        if row is None or comparison is None:
            continue
        alone.append(len(row["chosen"]) + len(row["rejected"]))
        together.append(len(comparison["chosen_first"]))
        sides = {side: [{"role": "assistant", "content": getattr(record, side)}] for side in ("chosen", "rejected")}
        rows.append(json.dumps({"prompt": list(record.prompt), **sides}))
    path.write_text("\n".join(rows) + "\n")
    mean = statistics.mean
    return {
        "num_pairs": len(rows),
        "tokens_per_pair": {
            "trl": mean(alone),
            "bradley_terry": mean(alone),
            "random": mean(together),
            "both": 2 * mean(together),
        },
        "cut_share": judge.counts.truncated_fraction,
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all contestants, their medians, and the ratios to TRL."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        found: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k in SETTINGS}}
        found |= write_rows(options, rows)
        given = {name: getattr(options, name) for name in ("model", "batch_size", "max_length", "dtype")}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for number in range(options.rounds):
            for name in CONTESTANTS[number % 4 :] + CONTESTANTS[: number % 4]:
                runs[name].append(run_worker(__file__, name, options, rows, given))
                print(number, name, runs[name][-1], file=sys.stderr, flush=True)
    return {**found, "runs": runs, **ratios(runs, ("pairs_per_s", "peak_gib"))}


SETTINGS = ("model", "num_pairs", "batch_size", "max_length", "dtype", "threads", "rounds")


def main() -> None:
    """Print one JSON object; as a worker, that of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the backbone")
    parser.add_argument("--pairs", help="preference file in any shape of docs/data.md")
    parser.add_argument("--trl-python", default="trl-env/bin/python", help="interpreter of the environment with TRL")
    parser.add_argument("--num-pairs", type=int, default=24, help="pairs of the epoch that is timed")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs per step")
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32",), help="weights that learn are float32")
    parser.add_argument("--json", type=Path, help="also write the result here")
    add_worker_options(parser)
    options = parser.parse_args()
    if options.worker:
        train = train_with_trl if options.worker == "trl" else train_with_prl
        print(json.dumps(train(options)))
        return
    text = json.dumps(compare(options), indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
