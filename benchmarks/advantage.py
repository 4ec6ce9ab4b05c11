"""Time of the advantage operators beside other ways to the same numbers and the memory traffic they cannot avoid.

python benchmarks/advantage.py --json advantage.json
python benchmarks/advantage.py --device cuda --json advantage-cuda.json

Contestants take turns in one process, so that a drift of the machine hits all alike. Before the timing all of them must
agree. The floor of a contestant is the bytes it has to move over the bandwidth of a large copy in the same rounds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prl import ops
from prl.ops import reference

Call = Callable[[], tuple[Tensor, ...]]

SHAPES = {"cpu": "64x64,512x1024,1024x4096", "cuda": "64x64,512x1024,4096x4096,8x131072"}
DTYPES = {"cpu": "float32", "cuda": "float32,bfloat16"}
REPEATS = {"cpu": 15, "cuda": 100}
GAMMA, LAMBDA, CRITIC_LAMBDA, KL_COEF = 1.0, 0.95, 1.0, 0.05
SECONDS_EACH = 6.0
"""A slow contestant stops after this time at one shape, though not before three samples."""
SAMPLE_SECONDS = 0.02
"""A sample of a fast contestant is as many calls as fill this time."""
COPY_BYTES = 256 << 20
FLUSH_FROM = 1 << 20
"""CUDA: problems of this many bytes start with a cold cache, smaller ones run back to back."""
COLUMNS = ("median_ms", "min_ms", "floor_ms")
LONGEST_LOOP = {"cpu": 1 << 20, "cuda": 4096}
"""Steps up to which one kernel launch after the other is affordable."""
TARGETS = {
    "1024x4096": {"loop / prl": (">=", 40.0), "torchrl / prl": (">=", 5.0), "prl / floor": ("<=", 2.0)},
    "64x64": dict.fromkeys(("loop / prl", "torchrl / prl", "reference / prl"), (">=", 1.0)),
}
"""For float32 on the CPU; shown beside the figures, not asserted."""


@dataclass(frozen=True)
class Problem:
    """One shape and dtype with its data; all tokens count."""

    rewards: Tensor
    values: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    mask: Tensor
    scores: Tensor

    def bytes_of(self, name: str) -> int:
        """Count the bytes that a contestant must read and write: its inputs, the mask and two float32 results."""
        inputs = (self.logprobs, self.ref_logprobs, self.values) if "shaped" in name else (self.rewards, self.values)
        return self.mask.numel() * (sum(tensor.element_size() for tensor in inputs) + 1 + 8)


def make_problem(rows: int, width: int, dtype: torch.dtype, device: str) -> Problem:
    """Draw normal random data of the magnitudes of a training run, with one seed."""
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(rows, width, generator=generator).to(device, dtype) for _ in range(4))
    mask = torch.ones(rows, width, dtype=torch.bool, device=device)
    return Problem(a, b, c, d, mask, torch.randn(rows, generator=generator).to(device))


def python_loop(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the loop in TRL 1.9.2's PPO trainer: one step after the other, no masks, one lambda for both."""
    rewards, values = rewards.float(), values.float()
    last = rewards.shape[1] - 1
    advantage: Tensor | float = 0.0
    backwards = []
    for t in range(last, -1, -1):
        next_value = values[:, t + 1] if t < last else 0.0
        delta = rewards[:, t] + GAMMA * next_value - values[:, t]
        advantage = delta + GAMMA * LAMBDA * advantage
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, advantages + values


def torchrl_call(problem: Problem) -> Call | str:
    """TorchRL's vectorised estimate, its inputs laid out beforehand; or why it is not measured."""
    try:
        from torchrl.objectives.value.functional import vec_generalized_advantage_estimate
    except ImportError:
        return "not installed"
    p = problem
    next_values = torch.cat([p.values[:, 1:], torch.zeros_like(p.values[:, :1])], dim=1)
    done = torch.zeros_like(p.mask)
    done[:, -1] = True
    columns, ends = [column[..., None] for column in (p.values, next_values, p.rewards)], done[..., None]
    # float() copies bfloat16 only: their own arithmetic in bfloat16 would be other numbers.
    return lambda: vec_generalized_advantage_estimate(GAMMA, LAMBDA, *(c.float() for c in columns), ends, ends)


def contestants(problem: Problem) -> dict[str, Call | str]:
    """Build the contestants, by name; a text says why one is not measured here."""
    p, longest = problem, LONGEST_LOOP[problem.mask.device.type]
    given = (p.rewards, p.values, p.mask)
    shaped = (p.logprobs, p.ref_logprobs, p.scores, p.values, p.mask, KL_COEF, "k1", GAMMA, LAMBDA)
    decays = reference.Decays(GAMMA, LAMBDA, None, None)
    found: dict[str, Call | str] = {
        "prl": partial(torch.ops.prl.gae, *given, GAMMA, LAMBDA),
        "prl critic": partial(torch.ops.prl.gae, *given, GAMMA, LAMBDA, CRITIC_LAMBDA),
        "prl shaped": partial(torch.ops.prl.shaped_gae, *shaped),
        "torchrl": torchrl_call(p),
        "reference": partial(reference.gae, *given, None, decays),
        "loop": partial(python_loop, p.rewards, p.values),
    }
    if p.mask.shape[1] > longest:
        found |= dict.fromkeys(("reference", "loop"), f"not timed: more than {longest} steps")
    return found


def expected_of(problem: Problem, name: str) -> tuple[Tensor, ...]:
    """Compute by the reference what a contestant should return."""
    p = problem
    decays = reference.Decays(GAMMA, LAMBDA, CRITIC_LAMBDA if name == "prl critic" else None, None)
    if name == "prl shaped":
        rewards = reference.shaped_rewards(p.logprobs, p.ref_logprobs, KL_COEF, "k1")
        return reference.gae(rewards, p.values, p.mask, p.scores, decays)
    return reference.gae(p.rewards, p.values, p.mask, None, decays)[:2]


def check(problem: Problem, calls: dict[str, Call]) -> dict[str, float]:
    """Largest difference of each contestant from the reference, as a share of the largest number.

    Raises:
        SystemExit: when it is above 1e-5 (from 1024 tokens on times sqrt(T / 1024): float32 sums of T numbers).
    """
    width = problem.mask.shape[1]
    limit = 1e-5 * max(1.0, (width / 1024) ** 0.5)
    plain = expected_of(problem, "prl")
    worst: dict[str, float] = {}
    for name, call in calls.items():
        expected = expected_of(problem, name) if name in ("prl critic", "prl shaped") else plain
        pairs = zip(call()[: len(expected)], expected, strict=True)
        shares = [(found.reshape(e.shape).double() - e).abs().max() / e.double().abs().max() for found, e in pairs]
        worst[name] = float(torch.stack(shares).max())
        if not worst[name] <= limit:
            raise SystemExit(
                f"{name} is wrong on {width} tokens: {worst[name]:.1e} from the reference, limit {limit:.1e}"
            )
    return worst


def seconds_of(call: Callable[[], object], calls: int, device: str, flush: Tensor | None) -> float:
    """Time of one call, as a mean over some in a row after one that is not timed; on CUDA between two events."""
    call()
    if device == "cpu":
        before = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - before) / calls
    if flush is not None:
        flush.zero_()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def measure(problem: Problem, calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, Any]]:
    """Sample all contestants in turns, every round in another order."""
    device, flush, shuffled = problem.mask.device.type, None, random.Random(0)
    if device == "cuda" and problem.bytes_of("prl") >= FLUSH_FROM:
        flush = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    first = {name: seconds_of(call, 1, device, flush) for name, call in calls.items()}
    per_sample = {name: 1 if flush is not None else max(1, int(SAMPLE_SECONDS / first[name])) for name in calls}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for _ in range(repeats):
        for name in shuffled.sample(list(calls), len(calls)):
            if spent[name] < SECONDS_EACH or len(samples[name]) < 3:
                before = time.perf_counter()
                samples[name].append(seconds_of(calls[name], per_sample[name], device, flush))
                spent[name] += time.perf_counter() - before
    return {
        name: {"median_ms": 1e3 * statistics.median(found), "min_ms": 1e3 * min(found), "samples": len(found)}
        | {"calls_per_sample": per_sample[name]}
        for name, found in samples.items()
    }


def cache_bytes(device: str) -> int:
    """Size of the last cache before the memory; 0 where the system does not tell."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) << 10 for size in sizes), default=0)


def compare(rows: int, width: int, dtype: str, device: str, repeats: int) -> dict[str, Any]:
    """Check, then time all contestants at one shape; ratios are of medians."""
    problem = make_problem(rows, width, getattr(torch, dtype), device)
    entries = contestants(problem)
    calls = {name: call for name, call in entries.items() if not isinstance(call, str)}
    differences = check(problem, calls)
    source = torch.rand(COPY_BYTES // 4, device=device)
    times = measure(problem, {**calls, "copy": partial(torch.empty_like(source).copy_, source)}, repeats)
    bandwidth = 2 * COPY_BYTES / times["copy"]["median_ms"] * 1e3
    own = [name for name in calls if name.startswith("prl")]
    for name in own:
        times[name]["floor_ms"] = problem.bytes_of(name) / bandwidth * 1e3
        times[name]["share_of_copy_bandwidth"] = times[name]["floor_ms"] / times[name]["median_ms"]
    others = [name for name in times if name not in (*own, "copy")]
    ratios = {f"{name} / prl": times[name]["median_ms"] / times["prl"]["median_ms"] for name in others}
    ratios |= {f"{name} / floor": 1 / times[name]["share_of_copy_bandwidth"] for name in own}
    size = problem.bytes_of("prl")
    return {
        **{"shape": f"{rows}x{width}", "dtype": dtype, "bytes": size, "copy_gb_per_s": bandwidth / 1e9},
        "floor_is_meaningful": size >= FLUSH_FROM if device == "cuda" else size > cache_bytes(device),
        "largest_difference": differences,
        "times": {name: times.get(name, {"missing": call}) for name, call in {**entries, "copy": ""}.items()},
        "ratios": ratios,
    }


def show(result: dict[str, Any], device: str) -> None:
    """One shape as a table."""
    print(f"\n{result['shape']} {result['dtype']}, copy {result['copy_gb_per_s']:.1f} GB/s")
    print(" " * 14 + "".join(f"{key:>11}" for key in COLUMNS) + "  samples x calls")
    for name, entry in result["times"].items():
        numbers = "".join(f"{entry[key]:>11.4f}" if key in entry else " " * 11 for key in COLUMNS)
        print(
            f"  {name:<12}" + (entry.get("missing") or f"{numbers}  {entry['samples']} x {entry['calls_per_sample']}")
        )
    targets = TARGETS.get(result["shape"], {}) if (device, result["dtype"]) == ("cpu", "float32") else {}
    for name, ratio in result["ratios"].items():
        sign, target = targets.get(name, ("", 0.0))
        met = "met" if (ratio >= target if sign == ">=" else ratio <= target) else "MISSED"
        print(f"  {name:<19}{ratio:>9.2f}" + (f"  target {sign} {target:g}: {met}" if sign else ""))
    if not result["floor_is_meaningful"]:
        print("  the data fit the caches: the floor, which is of memory, says nothing here")


def machine(device: str) -> dict[str, Any]:
    """Describe what the figures depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    return {
        **{"cpu": models[0] if models else platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__},
        **{"torchrl": installed.get("torchrl", "not installed"), "threads": torch.get_num_threads()},
        **{"load_average": os.getloadavg(), "cache_bytes": cache_bytes(device)},
        "gpu": torch.cuda.get_device_name(0) if device == "cuda" else None,
        **{f"kernel {name}": asdict(kernel) for name, kernel in ops.status().items()},
    }


def main() -> None:
    """Print a table per shape; write one JSON object if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", help="rows x tokens, such as 64x64,1024x4096")
    parser.add_argument("--dtypes", help="such as float32,bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="samples of each contestant, fewer of slow ones")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a CUDA device, and this process sees none")
    if ops.active_for(device) == "torch":
        raise SystemExit(f"no compiled kernel to measure on {device}: {ops.status()}")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # TorchRL convolves; its results would be right to three digits only
    facts = machine(device)
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    results = []
    for dtype in (options.dtypes or DTYPES[device]).split(","):
        for shape in (options.shapes or SHAPES[device]).split(","):
            rows, width = (int(part) for part in shape.split("x"))
            results.append(compare(rows, width, dtype, device, options.repeats or REPEATS[device]))
            show(results[-1], device)
    facts["load_average_after"] = os.getloadavg()
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "device": device, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
