"""Responses behind one copy of their prompt in scoring and update of PPO: time and memory as ratios to plain rows.

python benchmarks/shared_update.py --json shared_update.json
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prl.models.actor_critic import Sharing, evaluate
from prl.models.memory import PeakOfTensors
from prl.types import PromptBatch, Rollout

MODES = ("off", "auto")


def load(options: argparse.Namespace) -> Any:
    """Read a model, or make a random Llama of the given sizes."""
    torch.manual_seed(0)
    if options.model:
        return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).train()
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden_size,
        intermediate_size=8 * options.hidden_size // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 64,
        max_position_embeddings=8192,
    )
    return LlamaForCausalLM(config).train()


def rollout_of(options: argparse.Namespace, share: float, samples: int, vocabulary: int) -> Rollout:
    """Draw random prompts, and responses to each; both vary in length by `spread`."""
    draw = random.Random(f"{share} {samples}")

    def length(mean: float) -> int:
        return max(1, round(mean * draw.uniform(1 - options.spread, 1 + options.spread)))

    prompts = [length(options.length * share) for _ in range(options.prompts)]
    responses = [length(options.length * (1 - share)) for _ in range(options.prompts * samples)]
    width, behind = max(prompts), max(responses)
    ids = torch.randint(vocabulary, (options.prompts, width))
    mask = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    nothing: Any = [()] * options.prompts
    batch = PromptBatch(ids, mask, nothing, nothing).repeat(samples)
    made = torch.arange(behind) < torch.tensor(responses)[:, None]
    tokens = torch.randint(vocabulary, made.shape)
    return Rollout(batch, tokens, made, made[:, 0], [""] * len(made), behind)


def passes(model: Any, rollout: Rollout, sharing: Sharing) -> dict[str, Callable[[], Tensor]]:
    """Return the pass of scoring, and that of one micro-batch of an update, gradients included."""

    def score() -> Tensor:
        with torch.no_grad():
            return evaluate(model, None, rollout, temperature=1.0, sharing=sharing)[0]

    def update() -> Tensor:
        logprobs, _, _ = evaluate(model, None, rollout, temperature=1.0, sharing=sharing)
        (logprobs.sum() / 100).backward()
        return logprobs.detach()

    return {"scoring": score, "update": update}


def peak(model: Any, work: Callable[[], Tensor]) -> int:
    """Measure the most bytes of tensors beside weights and gradients."""
    known = [
        *model.parameters(),
        *model.buffers(),
        *(each.grad for each in model.parameters() if each.grad is not None),
    ]
    with PeakOfTensors(known) as tracker:
        work()
    return tracker.peak


def measure(options: argparse.Namespace, model: Any, share: float, samples: int) -> dict[str, Any]:
    """Time all modes in turns; return medians and ratios to plain rows.

    Raises:
        SystemExit: when two modes give different log-probabilities.
    """
    rollout = rollout_of(options, share, samples, model.config.vocab_size)
    sharing = {mode: Sharing.of(mode) for mode in MODES}
    work = {mode: passes(model, rollout, sharing[mode]) for mode in MODES}
    plain = work["off"]["update"]()  # also makes the gradients
    for mode in MODES:
        if float((work[mode]["scoring"]() - plain).abs().max()) > 1e-3:
            raise SystemExit(f"{mode} gives other log-probabilities than off")
    found: dict[str, Any] = {}
    for phase in ("scoring", "update"):
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(options.rounds):
            for mode in MODES[:: 1 - 2 * (number % 2)]:
                begin = time.process_time()
                work[mode][phase]()
                times[mode].append(time.process_time() - begin)
        medians = {mode: statistics.median(some) for mode, some in times.items()}
        bytes_ = {mode: peak(model, work[mode][phase]) for mode in MODES}
        found[phase] = {
            "seconds": medians,
            "time": {mode: medians[mode] / medians["off"] for mode in MODES},
            "memory": {mode: bytes_[mode] / bytes_["off"] for mode in MODES},
        }
    tokens = {mode: each.policy.tokens for mode, each in sharing.items()}
    shared = {mode: each.computed / max(each.plain, 1) for mode, each in tokens.items()}
    padded = {mode: each.positions / max(each.plain, 1) for mode, each in tokens.items()}
    of_plain = rollout.input_ids.numel() / int(rollout.attention_mask.sum())
    found["tokens"] = {**shared, "off": 1.0}
    found["positions"] = {**padded, "off": of_plain}
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a causal language model; a random Llama of the sizes below if none")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--shares", default="0.1,0.5,0.8", help="shares of the prompt in a row of prompt and response")
    parser.add_argument("--samples", default="4,8", help="responses to each prompt")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a micro-batch")
    parser.add_argument("--length", type=int, default=256, help="mean tokens of a row of prompt and response")
    parser.add_argument("--spread", type=float, default=0.25, help="part by which lengths vary; 0 has no padding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, whose figures mean nothing")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    if options.tiny:
        options.hidden_size, options.layers, options.vocabulary = 64, 1, 98
        options.prompts, options.length, options.rounds = 1, 32, 1
    torch.set_num_threads(options.threads)
    model = load(options)
    found: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(options).items()}, "load": [os.getloadavg()]}
    for samples, share in product(map(int, options.samples.split(",")), map(float, options.shares.split(","))):
        found[f"{samples} samples, share {share}"] = case = measure(options, model, share, samples)
        print(samples, share, json.dumps(case), file=sys.stderr, flush=True)
        found["load"].append(os.getloadavg())
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
