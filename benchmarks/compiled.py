"""Forward and backward passes of a Llama by `torch.compile` over those without, on this machine's processor.

python benchmarks/compiled.py --json compiled.json

The shapes of the 0.87 M model and of SmolLM2-135M, with random weights, as a critic reads them: no language head.
Contestants take turns in one process. Time is that of the processor with one thread; the compilation itself is timed by
the clock, and is what the passes of a run would have to repay.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ppo_inputs import SIZES, Work
from transformers import LlamaConfig, LlamaModel

from runs import show


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


def passes_over(work: Work, model: LlamaModel) -> Callable[[Callable[..., Any]], None]:
    """Return a function that runs the model, or what it was compiled to, forward and backward over a micro-batch."""
    size = (work.rows // work.minibatches, work.prompt_tokens + work.response_tokens)
    ids, mask = torch.randint(work.vocabulary, size), torch.ones(size, dtype=torch.bool)

    def run(contestant: Callable[..., Any]) -> None:
        contestant(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.sum().backward()
        model.zero_grad()

    return run


def compare(work: Work, rounds: int) -> dict[str, Any]:
    """Time passes over the rows of a micro-batch, compiled and not."""
    torch.set_num_threads(1)
    model = build(work)
    run = passes_over(work, model)

    def seconds(contestant: Callable[..., Any]) -> float:
        began = time.process_time()
        run(contestant)
        return time.process_time() - began

    contestants, began = {"eager": model, "compiled": torch.compile(model)}, time.perf_counter()
    seconds(contestants["compiled"])
    compilation = time.perf_counter() - began
    seconds(model)
    times = [{name: seconds(each) for name, each in contestants.items()} for _ in range(rounds)]
    medians = {name: statistics.median(each[name] for each in times) for name in contestants}
    return {**medians, "ratio": medians["compiled"] / medians["eager"], "compilation": compilation}


def main() -> None:
    """Compare both shapes, and print them as an object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()
    sizes = {name: compare(SIZES[name], options.rounds) for name in ("small", "smollm2")}
    result = {**sizes, "load": [load, os.getloadavg()]}
    show(result, options.json)


if __name__ == "__main__":
    main()
