"""Forward and backward passes of a Llama by `torch.compile` over those without, on this machine's processor.

python benchmarks/compiled.py --json compiled.json

The shapes of the 0.87 M model and of SmolLM2-135M, with random weights, as a critic reads them: no language head.
Contestants take turns in one process. Time is that of the processor with one thread; the compilation itself is timed by
the clock, and is what the passes of a run would have to repay.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ppo_inputs import SIZES, Work
from transformers import LlamaConfig, LlamaModel


def build(work: Work) -> LlamaModel:
    """Build a random Llama without a language head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=work.vocabulary,
        hidden_size=work.hidden,
        intermediate_size=work.inner,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.key_value_heads,
    )
    return LlamaModel(config)


def compare(work: Work, rounds: int, threads: int) -> dict[str, Any]:
    """Time passes over the rows of a micro-batch, compiled and not."""
    torch.set_num_threads(threads)
    model, now = build(work), time.process_time if threads == 1 else time.perf_counter
    size = (work.rows // work.minibatches, work.prompt_tokens + work.response_tokens)
    ids, mask = torch.randint(work.vocabulary, size), torch.ones(size, dtype=torch.bool)

    def seconds(run: Callable[..., Any]) -> float:
        began = now()
        run(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.sum().backward()
        model.zero_grad()
        return now() - began

    contestants, began = {"eager": model, "compiled": torch.compile(model)}, time.perf_counter()
    seconds(contestants["compiled"])
    compilation = time.perf_counter() - began
    seconds(model)
    times = [{name: seconds(run) for name, run in contestants.items()} for _ in range(rounds)]
    medians = {name: statistics.median(each[name] for each in times) for name in contestants}
    return {**medians, "ratio": medians["compiled"] / medians["eager"], "compilation": compilation}


def main() -> None:
    """Compare both shapes, and print them as an object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()
    sizes = {name: compare(SIZES[name], options.rounds, options.threads) for name in ("small", "smollm2")}
    result = {**sizes, "load": [load, os.getloadavg()]}
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
