"""Sampling by prl's decode loop beside `model.generate` of transformers, and beside the least that the work needs.

python benchmarks/sampling.py --json sampling.json
python benchmarks/sampling.py --model DIR --batches 8,32 --samples 4

Without `--model` the weights are random, in the shape of SmolLM2-135M. Prompts are random tokens and no row ends early,
so both ways take as many steps. They take turns, in a new order each round. Time is the processor's, of one thread.

The floor is that of needed_work.py, at rates that are measured in every round. Prompts that several samples share count
once.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from needed_work import Shape, measure_rates, sampling_seconds
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from prl.rollouts.decoding import decode_rows
from prl.rollouts.drawing import draw_tokens, uniform_table

SMOLLM2: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def seconds(work: Callable[[], Any]) -> float:
    """Time one call, by the processor's clock."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def build(folder: str | None) -> Any:
    """Read a model, or make one with random weights."""
    if folder:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return LlamaForCausalLM(LlamaConfig(**SMOLLM2)).eval()


def ours(model: Any, ids: Tensor, tokens: int) -> Tensor:
    """Sample by the decode loop."""
    table, mask = uniform_table(len(ids), tokens), torch.ones_like(ids, dtype=torch.bool)
    limits = torch.full((len(ids),), tokens)

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        return draw_tokens(logits, 1.0, table[rows, step])

    return decode_rows(model, ids, mask, choose, limits=limits, end_ids=[-1], pad_id=0)


def theirs(model: Any, ids: Tensor, tokens: int) -> Tensor:
    """Sample by `model.generate`, from the same distribution."""
    plain = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=tokens, pad_token_id=0)
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=plain)


def measure(model: Any, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Let both ways take turns on one batch size."""
    distinct = max(1, rows // options.samples)
    ids = torch.randint(5, model.config.vocab_size, (distinct, options.prompt)).repeat_interleave(options.samples, 0)
    model.generation_config.eos_token_id = None
    shape, prompts = Shape.of(model), ids[:: options.samples].tolist()
    ways = {"prl": ours, "generate": theirs}
    found: dict[str, list[float]] = {name: [] for name in (*ways, "floor", "over_generate", "over_floor")}
    for way in ways.values():
        way(model, ids, 3)
    for number in range(options.rounds):
        order = random.sample(list(ways), len(ways))
        taken = {name: seconds(partial(ways[name], model, ids, options.tokens)) for name in order}
        least = sampling_seconds(shape, measure_rates(time.process_time), prompts, options.samples, options.tokens)
        taken |= {"floor": least, "over_generate": taken["prl"] / taken["generate"], "over_floor": taken["prl"] / least}
        for name, value in taken.items():
            found[name].append(value)
        print(rows, number, {name: round(value, 2) for name, value in taken.items()}, flush=True)
    return {"rows": rows, **{name: statistics.median(values) for name, values in found.items()}}


def main() -> None:
    """Measure every batch size and write the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a causal language model")
    parser.add_argument("--batches", default="8,32", help="rows of a batch, several with commas")
    parser.add_argument("--samples", type=int, default=1, help="rows of each prompt")
    parser.add_argument("--prompt", type=int, default=80, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(options.model)
    results = [measure(model, int(rows), options) for rows in options.batches.split(",")]
    settings = {name: getattr(options, name) for name in ("model", "samples", "prompt", "tokens", "rounds")}
    text = json.dumps({"torch": torch.__version__, **settings, "results": results}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
