"""Sampling by prl's decode loop beside `model.generate` of transformers, and beside the least that the work needs.

python benchmarks/sampling.py --json sampling.json
python benchmarks/sampling.py --model DIR --batches 8,32 --samples 4

Without `--model` the weights are random, in the shape of SmolLM2-135M. Prompts are random tokens and no row ends early,
so both ways take as many steps. They take turns, in a new order each round. With one thread, time is the processor's.

The floor is that of needed_work.py, at rates that are measured in every round. Prompts that several samples share count
once.
"""

import argparse
import json
import os
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from needed_work import Shape, measure_rates, sampling_seconds
from ppo_iteration import clock_for
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
TINY = {"vocab_size": 98, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip


def seconds(work: Callable[[], Any], now: Callable[[], float]) -> float:
    """Time one call."""
    begin = now()
    work()
    return now() - begin


def build(folder: str | None, *, tiny: bool) -> Any:
    """Read a model, or make one with random weights."""
    if folder:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return LlamaForCausalLM(LlamaConfig(**(TINY if tiny else SMOLLM2))).eval()


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
    now, mib = clock_for(options.threads), 4 if options.tiny else 256
    ways = {"prl": ours, "generate": theirs}
    found: dict[str, list[float]] = {name: [] for name in (*ways, "floor", "over_generate", "over_floor")}
    for way in ways.values():
        way(model, ids, 3)
    for number in range(options.rounds):
        order = random.sample(list(ways), len(ways))
        taken = {name: seconds(partial(ways[name], model, ids, options.tokens), now) for name in order}
        rates = measure_rates(now, mib=mib)
        least = sampling_seconds(shape, rates, prompts, options.samples, options.tokens)
        taken |= {"floor": least, "over_generate": taken["prl"] / taken["generate"], "over_floor": taken["prl"] / least}
        for name, value in taken.items():
            found[name].append(value)
        shown = {name: round(value, 2) for name, value in taken.items()}
        print(rows, number, shown, file=sys.stderr, flush=True)
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, whose figures mean nothing")
    parser.add_argument("--json", type=Path, help="also write the result here, after every batch size")
    options = parser.parse_args()
    if options.tiny:
        options.batches, options.prompt, options.tokens, options.rounds = "2,4", 6, 4, 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build(options.model, tiny=options.tiny)
    settings = {name: getattr(options, name) for name in ("model", "samples", "prompt", "tokens", "rounds", "threads")}
    found: dict[str, Any] = {"torch": torch.__version__, **settings, "load": [os.getloadavg()], "results": []}
    for rows in map(int, options.batches.split(",")):
        found["results"].append(measure(model, rows, options))
        found["load"].append(os.getloadavg())
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
