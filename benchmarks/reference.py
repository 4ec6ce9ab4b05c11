"""Reading a frozen reference three ways: pair by pair, in passes of fixed shapes, and each batch as a whole.

python benchmarks/reference.py --config quickstart --json reference.json
python benchmarks/reference.py --config smollm2 --pairs pairs.jsonl --tokens-at-once 512,1024,2048

Weights are random, of the sizes of the quickstart or of SmolLM2-135M; lengths are those of a file of preference pairs
with the columns prompt, chosen and rejected, one token for so many characters.
"""

import argparse
import gzip
import json
import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_modules import reference_passes
from lightning_modules.reference_passes import pairs_of, read_pairs
from prl.data import LengthGroupedBatchSampler
from prl.models.logprobs import completion_logprobs
from prl.rl.sharding import Sharding

CONFIGS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "vocab_size": 99,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
Lengths = list[tuple[int, int, int]]
"""Of each pair the tokens of its prompt, and of its prompt with either response."""


def lengths_of(path: Path, characters: float, longest: int) -> Lengths:
    """Estimate tokens from characters; responses are cut at the longest row."""
    found = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
        for row in map(json.loads, lines):
            prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
            start = min(longest // 2, 1 + round(len(prompt) / characters))
            chosen, rejected = (
                min(longest, start + 1 + round(len(row[n]) / characters)) for n in ("chosen", "rejected")
            )
            found.append((start, chosen, rejected))
    return found


def batches_of(lengths: Lengths, size: int, *, grouped: bool, number: int, vocab: int) -> list[dict[str, torch.Tensor]]:
    """Draw batches as training draws them, with random tokens, in the layout of `PreferenceEncoder`."""
    sampler = LengthGroupedBatchSampler(
        [max(chosen, rejected) for _, chosen, rejected in lengths],
        size,
        shuffle=True,
        seed=0,
        drop_last=True,
        group_by_length=grouped,
    )
    drawn = random.Random(0).sample(list(islice(sampler, len(sampler))), number)
    batches = []
    for rows in drawn:
        starts = torch.tensor([lengths[row][0] for row in rows] * 2)[:, None]
        ends = torch.tensor([lengths[row][view] for view in (1, 2) for row in rows])[:, None]
        places = torch.arange(int(ends.max()))
        batches.append(
            {
                "input_ids": torch.randint(vocab, (len(ends), len(places))),
                "attention_mask": places < ends,
                "loss_mask": (places >= starts) & (places < ends),
                "targets": torch.ones(size),
            }
        )
    return batches


class Passes:
    """Counts passes of a model and their tokens."""

    def __init__(self, model: Any) -> None:
        self.passes = self.tokens = 0
        model.model.register_forward_hook(self._count)

    def _count(self, _: Any, __: Any, output: Any) -> None:
        self.passes += 1
        self.tokens += output.last_hidden_state.shape[:2].numel()


@torch.no_grad()
def measured(model: Any, batches: list[dict[str, torch.Tensor]], way: str, repeats: int) -> dict[str, float]:
    """Time one way of reading: least processor time (on a GPU, time) of several turns, passes and tokens per batch."""
    on_gpu = next(model.parameters()).is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    names = ("input_ids", "attention_mask", "loss_mask")

    def turn() -> float:
        start = clock()
        for batch in batches:
            if way == "whole":
                completion_logprobs(model, *(batch[name] for name in names))
            elif way == "pairs":
                for pair in pairs_of(batch):
                    completion_logprobs(model, *pair)
            else:
                read_pairs(model, pairs_of(batch), Sharding())
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    turn()  # the first one also tries the shapes
    counted = Passes(model)
    seconds = min(turn() for _ in range(repeats))
    real = sum(int(batch["attention_mask"].sum()) for batch in batches) * repeats
    number = len(batches) * repeats
    return {
        "seconds_per_batch": seconds / len(batches),
        "passes": counted.passes / number,
        "tokens_over_real": counted.tokens / real,
    }


def compared(model: Any, batches: list[dict[str, torch.Tensor]], budgets: list[int], repeats: int) -> dict[str, Any]:
    """Measure all ways on the same batches; ratios are to pair by pair."""
    found = {way: measured(model, batches, way, repeats) for way in ("pairs", "whole")}
    for budget in budgets:
        reference_passes.CPU_TOKENS = reference_passes.TOKENS = budget
        found[f"fixed {budget}"] = measured(model, batches, "fixed", repeats)
    base = found["pairs"]["seconds_per_batch"]
    shapes = model.__dict__["_prl_steady_shapes"]
    return {
        "ways": found,
        "time_over_pairs": {way: each["seconds_per_batch"] / base for way, each in found.items()},
        "shapes": len(shapes),
        "steady_shapes": sum(shapes.values()),
    }


def main() -> None:
    """Print one JSON object, and write it where --json says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, default="quickstart")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--characters", type=float, help="characters of a token; 1 and 4.2 by default")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--tokens-at-once", default="512,1024,2048")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-grouping", action="store_true", help="batches of any lengths")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    settings = {"max_position_embeddings": 8192, **CONFIGS[options.config]}
    config = AutoConfig.for_model("llama", **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype)).eval().to(options.device)
    characters = options.characters or (1.0 if options.config == "quickstart" else 4.2)
    lengths = lengths_of(options.pairs, characters, options.max_length)
    result: dict[str, Any] = {"options": {name: str(value) for name, value in vars(options).items()}}
    for size in map(int, options.batch_sizes.split(",")):
        batches = batches_of(
            lengths, size, grouped=not options.no_grouping, number=options.batches, vocab=config.vocab_size
        )
        placed = [{name: each.to(options.device) for name, each in batch.items()} for batch in batches]
        result[f"batch_size {size}"] = compared(
            model, placed, list(map(int, options.tokens_at_once.split(","))), options.repeats
        )
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
