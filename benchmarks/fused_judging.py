"""Reading what comparisons share once, beside reading every comparison whole: computed tokens and time as ratios.

python benchmarks/fused_judging.py --model DIR --json fused.json

Readings are random tokens: a prompt, then anchor and sample in both orders. All ways take turns in one process, so that
a drift of the machine hits them alike, and have to give the same margins. Time is the least of the rounds: seconds of
the processor on a CPU, which other programs disturb less, and of the clock on a GPU.
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import prl
from prl.config import ModelSource
from prl.data.tokens import left_pad
from prl.judge import ComparisonEncoder, JudgeTemplate
from prl.judge.batched import batched_margins
from prl.judge.kv_cache import PrefixCache, Reading
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.policy import verdict_logits, verdict_margins
from prl.models.prefix_sharing.packing import pack, shared_length
from prl.models.prefix_sharing.tree_attention import PrefixSharing, TokenCounts, packed_logits

Readings = list[list[int]]
MODES = ("off", "on", "auto")
MOST_DIFFERENT = 1e-3
"""Tolerance of float32 margins of a real model; they are in the tens."""


def make_readings(length: int, share: float, samples: int, vocabulary: int, seed: int) -> Readings:
    """Both orders of an anchor and each sample of a prompt; the prompt is `share` of each reading."""
    draw = random.Random(seed)

    def text(size: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(size)]

    prompt, size = text(round(length * share)), round(length * (1 - share) / 2)
    anchor, *responses = (text(size) for _ in range(samples + 1))
    return [prompt + u + v for s in responses for u, v in ((anchor, s), (s, anchor))]


def pairs_of(readings: Readings) -> list[list[int]]:
    """Two readings in a row, as training packs them."""
    return [[i, i + 1] for i in range(0, len(readings), 2)]


def training_step(model: Any, readings: Readings, ids: tuple[int, int], mode: str) -> Tensor:
    """Gradients of the margins' difference; returns the margins. `auto` reads as `PrefixSharing.should_pack` says."""
    plain_ids, mask = left_pad(readings, 0)
    packed = pack(pairs_of(readings), readings, 0)
    if mode == "on" or (mode == "auto" and PrefixSharing("auto").should_pack(model, packed, plain_ids, mask)):
        logits = packed_logits(model, packed.to(model.device))
    else:
        logits = verdict_logits(model, plain_ids.to(model.device), mask.to(model.device))
    margins = logits[:, ids[0]] - logits[:, ids[1]]
    torch.nn.functional.softplus(margins[1::2] - margins[::2]).mean().backward()
    model.zero_grad()
    return margins.detach()


def seconds(call: Callable[[], Tensor]) -> float:
    """Time of one call."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def measure(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Least time of each way, after one call each that is compared and not timed.

    Raises:
        SystemExit: when two ways give different margins.
    """
    margins = {name: call() for name, call in calls.items()}
    for name, found in margins.items():
        difference = float((found - margins["off"]).abs().max())
        if difference > MOST_DIFFERENT:
            raise SystemExit(f"{name}: margins differ by {difference:.2g}")
    times = {name: float("inf") for name in calls}
    for _ in range(rounds):
        for name, call in random.sample(list(calls.items()), len(calls)):
            times[name] = min(times[name], seconds(call))
    return times


def inference(model: Any, encoder: ComparisonEncoder, readings: Readings, rounds: int) -> dict[str, Any]:
    """One row of the table: what `on` and `auto` compute and take, as shares of `off`."""
    prefix_sharing = {mode: PrefixSharing(mode) for mode in MODES}  # type: ignore[arg-type]
    rows = {mode: prefix_sharing[mode].rows(model, readings, 1 << 20) for mode in MODES}
    ways = [mode for mode in MODES if mode != "auto" or rows["auto"] not in (rows["on"], rows["off"])]
    with torch.no_grad():
        calls = {
            mode: partial(batched_margins, model, readings, encoder, 1 << 20, prefix_sharing[mode]) for mode in MODES
        }
        calls["auto"]()  # for its count, where it is not timed because it reads as another does
        times = measure({mode: calls[mode] for mode in ways}, rounds)
    times.setdefault("auto", times["on" if rows["auto"] == rows["on"] else "off"])
    shares = {mode: 1 - prefix_sharing[mode].tokens.cached_token_fraction for mode in MODES}
    return (
        ratios(times) | {f"tokens_{mode}": shares[mode] for mode in ("on", "auto")} | {"rows_auto": len(rows["auto"])}
    )


def training(model: Any, encoder: ComparisonEncoder, readings: Readings, rounds: int) -> dict[str, Any]:
    """Measure a training batch of pairs, backward pass included."""
    prefix_sharing, packed = PrefixSharing("auto"), pack(pairs_of(readings), readings, 0)
    fused = prefix_sharing.should_pack(model, packed, *left_pad(readings, 0))
    times = measure(
        {mode: partial(training_step, model, readings, encoder.verdict_ids, mode) for mode in ("off", "on")}, rounds
    )
    times["auto"] = times["on" if fused else "off"]
    share = packed.num_tokens / packed.num_plain_tokens
    return ratios(times) | {
        "tokens_on": share,
        "tokens_auto": share if fused else 1.0,
        "rows_auto": len(readings) // (1 + fused),
    }


def returning(model: Any, encoder: ComparisonEncoder, readings: Readings, rounds: int) -> dict[str, Any]:
    """Judge new responses to known prompts and anchors: with their beginnings kept, whole, and fused.

    `cold` computes what is kept as well, as the first time does.
    """
    prompts = [shared_length(*pair) for pair in zip(readings[::2], readings[1::2], strict=True)]
    ends = [end for n in prompts for end in ((n, n + (len(readings[0]) - n) // 2), (n,))]
    marked = [Reading(*each) for each in zip(readings, ends, strict=True)]
    cache = PrefixCache(64.0, model, readings[0])

    def kept(tokens: TokenCounts) -> Tensor:
        margins = torch.empty(len(marked), device=cache.device)
        for numbers, logits in cache.logits(marked, 0, 1 << 20, tokens):
            margins[numbers] = verdict_margins(logits, torch.tensor(encoder.verdict_ids, device=cache.device))
        return margins

    def cold() -> Tensor:
        cache.clear()
        return kept(TokenCounts())

    with torch.no_grad():
        plain, fused = (
            partial(batched_margins, model, readings, encoder, 1 << 20, PrefixSharing(m)) for m in ("off", "auto")
        )
        calls = {"off": plain, "auto": fused, "cold": cold, "warm": lambda: kept(TokenCounts())}
        cold()
        kept(counts := TokenCounts())
        times = measure(calls, rounds)
    found = {f"time_{name}": times[name] / times["off"] for name in ("auto", "cold", "warm")}
    return found | {"tokens_warm": 1 - counts.cached_token_fraction, "seconds_off": times["off"]}


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Divide times by the time of plain reading."""
    return {f"time_{mode}": times[mode] / times["off"] for mode in ("on", "auto")} | {"seconds_off": times["off"]}


CASES = {"inference": inference, "training": training, "returning": returning}


def main() -> None:
    """Print a line per case and write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal language model")
    parser.add_argument("--json", required=True, help="where the figures go")
    parser.add_argument("--cases", default="inference:1,inference:4,training:1", help="what, and samples per prompt")
    parser.add_argument("--lengths", default="300", help="tokens of one comparison")
    parser.add_argument("--shares", default="0.1,0.3,0.5,0.7", help="share of the prompt in it")
    parser.add_argument("--prompts", type=int, default=1, help="different prompts of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = ModelSource(path=options.model)
    model = load_causal_lm(source).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    encoder = ComparisonEncoder(load_tokenizer(source), JudgeTemplate(), 1 << 20)
    config = model.config
    result: dict[str, Any] = {
        "model": {"hidden_size": config.hidden_size, "layers": config.num_hidden_layers, "dtype": str(model.dtype)},
        "where": {"machine": platform.machine(), "device": str(model.device), "threads": options.threads},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "prl": prl.__version__},
        **{"prompts": options.prompts, "rounds": options.rounds, "load": [os.getloadavg()], "table": []},
    }
    for case in options.cases.split(","):
        what, samples = case.split(":")
        for length in map(int, options.lengths.split(",")):
            for share in map(float, options.shares.split(",")):
                readings = [
                    reading
                    for seed in range(options.prompts)
                    for reading in make_readings(length, share, int(samples), config.vocab_size, seed)
                ]
                row = {"what": what, "samples": int(samples), "length": length, "prompt_share": share}
                row |= CASES[what](model, encoder, readings, options.rounds)
                result["table"].append(row)
                print(
                    "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                    flush=True,
                )
                Path(options.json).write_text(json.dumps(result | {"load_after": os.getloadavg()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
