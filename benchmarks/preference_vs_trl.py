"""DPO of prl beside TRL's DPOTrainer: processor time of a step and peak memory as ratios, by the prompt's share.

python -m venv trl-env && trl-env/bin/pip install torch==2.13.0 trl==1.16.0
python benchmarks/preference_vs_trl.py --trl-python trl-env/bin/python --json preference_vs_trl.json

Same weights, token ids, batch size, float32, threads, optimizer and clipping. Every weight learns, the reference is
read in each step, neither side checkpoints activations or sorts rows by length. TRL's head is the fused one of its
DPOTrainer, on tiles of completion tokens, which on a CPU run in plain torch. Each run is a process of its own, and the
contestants take turns. It trains for two epochs on the same pairs, of which the second is timed: in the first one prl
tries its models on trees and on fixed shapes, and both fill the reserves of their allocators.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from beside_trl import TRAINER, add_worker_options, peak_gib, ratios, run_worker

CONTESTANTS = ("trl", "off", "auto")
"""TRL, prl with `packed: off`, and with `packed: auto`."""
FIGURES = ("seconds", "peak_gib", "peak_above_start_gib")


class Clock:
    """Processor time of the steps of the last epoch, and peak memory above what was held before a model was read."""

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch, self.ends, self.start_gib = per_epoch, list[float](), peak_gib()

    def tick(self) -> None:
        """Mark the end of a step."""
        self.ends.append(time.process_time())

    def result(self) -> dict[str, float]:
        """Return seconds of a step, and memory."""
        seconds = (self.ends[-1] - self.ends[-1 - self.per_epoch]) / self.per_epoch
        return {"seconds": seconds, "peak_gib": peak_gib(), "peak_above_start_gib": peak_gib() - self.start_gib}


def train_with_trl(options: argparse.Namespace) -> dict[str, Any]:
    """Train by DPOTrainer of the installed TRL. Imports nothing of prl."""
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    clock = Clock(options.steps)

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    settings = trl.DPOConfig(
        output_dir=options.folder,
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=2,
        max_length=None,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = load_dataset("json", data_files=options.rows, split="train", cache_dir=options.folder)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    trainer = trl.DPOTrainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Steps()]
    )
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    tokens = sum(len(row[name]) for row in trainer.train_dataset for name in columns)
    trainer.train()
    return {**clock.result(), "version": trl.__version__, "tokens": tokens}


def train_with_prl(options: argparse.Namespace) -> dict[str, Any]:
    """Train by prl's preference stage, through a plain Lightning trainer."""
    import lightning

    from datamodules import PreferencePairDataModule
    from lightning_modules import PreferenceModule
    from prl.config import ModelSource, Optimization
    from prl.data import DataSource

    clock = Clock(options.steps)

    class Steps(lightning.Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    module = PreferenceModule(
        ModelSource(path=options.model),
        optimization=Optimization(learning_rate=1e-6),
        max_length=8192,
        packed=options.worker,
    )
    source = DataSource(options.rows)  # nothing is set aside: the validation set is the same, and not looked at
    data = PreferencePairDataModule(
        train=source, validation=source, batch_size=options.batch_size, group_by_length=False, num_workers=0
    )
    trainer = lightning.Trainer(
        **TRAINER,
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=options.folder,
        callbacks=[Steps()],
    )
    trainer.fit(module, data)
    rows = data.rows["train"]
    tokens = sum(len(row[name]) for row in rows for name in ("prompt", "chosen", "rejected"))
    shared = {name: each.tokens.cached_token_fraction for name, each in module.sharing.items()}
    return {**clock.result(), "tokens": tokens, "saved_tokens": shared}


def write_model(options: argparse.Namespace, folder: Path) -> None:
    """Write a random Llama whose tokens are characters; its vocabulary is larger, so that the head has a weight."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from prl.quickstart.tokenizer import build_tokenizer

    set_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=options.hidden_size,
        intermediate_size=8 * options.hidden_size // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 64,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(options: argparse.Namespace, share: float, path: Path) -> None:
    """Write pairs of random characters; rows of a prompt and a response have `length` of them, more or less."""
    draw = random.Random(round(100 * share))

    def text(size: float) -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=max(1, round(size))))

    lines = []
    for _ in range(options.steps * options.batch_size):
        length = options.length * draw.uniform(0.75, 1.25)
        sides = {side: text(length * (1 - share) * draw.uniform(0.75, 1.25)) for side in ("chosen", "rejected")}
        row = {side: [{"role": "assistant", "content": each}] for side, each in sides.items()}
        lines.append(json.dumps({"prompt": [{"role": "user", "content": text(length * share)}], **row}))
    path.write_text("\n".join(lines) + "\n")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds of all contestants for every share; give medians, and their ratios to TRL, after each round.

    Raises:
        SystemExit: when the contestants were given different numbers of tokens.
    """
    found: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k in SETTINGS}}
    found |= {"load": [os.getloadavg()], "shares": {}}
    given = {name: getattr(options, name) for name in ("batch_size", "steps")}
    shares = list(map(float, options.shares.split(",")))
    runs: dict[float, dict[str, list[dict[str, Any]]]] = {s: {name: [] for name in CONTESTANTS} for s in shares}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(options.model or Path(folder) / "model")
        if options.model is None:
            write_model(options, model)
        for number in range(options.rounds):
            for share in shares:
                rows = Path(folder) / f"{share}.jsonl"
                write_rows(options, share, rows)
                for name in CONTESTANTS[number % 3 :] + CONTESTANTS[: number % 3]:
                    runs[share][name].append(run_worker(__file__, name, options, rows, {**given, "model": model}))
                    print(share, number, name, runs[share][name][-1], file=sys.stderr, flush=True)
                found["shares"][share] = table_of(runs[share])
            found["load"].append(os.getloadavg())
            if options.json:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def table_of(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Give the medians of all runs with one share, and their ratios to TRL."""
    if len(tokens := {run["tokens"] for some in runs.values() for run in some}) > 1:
        raise SystemExit(f"the contestants read different numbers of tokens: {sorted(tokens)}")
    return {"runs": runs, **ratios(runs, FIGURES)}


SETTINGS = ("model", "hidden_size", "layers", "length", "steps", "batch_size", "threads", "rounds", "shares")


def main() -> None:
    """Print one JSON object; as a worker, that of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="folder of a model with its tokenizer; a random Llama of the sizes below if none"
    )
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--trl-python", default="trl-env/bin/python", help="interpreter of the environment with TRL")
    parser.add_argument("--shares", default="0.1,0.5,0.8", help="shares of the prompt in a row of prompt and response")
    parser.add_argument("--length", type=int, default=256, help="mean characters of such a row")
    parser.add_argument("--steps", type=int, default=3, help="steps of an epoch")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here")
    add_worker_options(parser)
    options = parser.parse_args()
    if options.worker:
        train = train_with_trl if options.worker == "trl" else train_with_prl
        print(json.dumps(train(options)))
        return
    print(json.dumps(compare(options), indent=2))


if __name__ == "__main__":
    main()
