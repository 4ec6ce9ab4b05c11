"""Memory of pairwise PPO on each of 8 to 512 GPUs, for 1.5, 7 and 70 billion parameters: computed, not measured.

python benchmarks/scale.py --json scale.json

Memory is that of `prl estimate`; no model is made. Communication is what each strategy's collectives move into one GPU
in one optimizer step of one micro-batch, by the sizes of what they carry.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from lightning_modules import PairwisePPOModule
from lightning_modules.estimates import MemoryPlan, plan_memory
from lightning_modules.strategies import shards_of
from prl.config import ModelSource, Sampling, Update
from prl.judge.endpoint import EndpointJudge
from prl.quickstart.tokenizer import build_tokenizer

GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = {
    "1.5 B": {
        **{"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
        **{"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    },
    "7 B": {
        **{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    },
    "70 B": {
        **{"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80},
        **{"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    },
}
"""Those of Qwen2.5 1.5B and 7B and of Llama 3 70B."""
HYBRID = "fsdp2_hybrid"
"""Shards within each node, as configs/strategies/fsdp2_hybrid.yaml has it."""
STRATEGIES = ("ddp", "fsdp2", HYBRID, "zero2", "zero3")
GPUS = (8, 64, 512)
GPUS_PER_NODE = 8
PROMPT, RESPONSE, ROLLOUTS = 1024, 1024, 4
PRECISION = "bf16-mixed"
"""Float32 weights computed in bfloat16; DeepSpeed has bfloat16 weights and takes steps on float32 copies of them."""


def build_stage(folder: Path) -> PairwisePPOModule:
    """Configure a run with a judge behind a server, and activations computed again."""
    source = ModelSource(path=str(folder), gradient_checkpointing=True)
    return PairwisePPOModule(
        policy=source,
        reward=EndpointJudge("http://localhost:8000/v1", "judge"),
        sampling=Sampling(max_new_tokens=RESPONSE),
        max_prompt_length=PROMPT,
        update=Update(microbatch_size=1),
    )


def traffic(trained: int, strategy: str, gpus: int) -> float:
    """Bytes into one GPU in one step of one micro-batch, for so many bytes of trained weights."""
    passes = {
        "ddp": 2,  # an all-reduce of gradients is a reduce-scatter and an all-gather
        "zero2": 2,  # gradients scattered, updated weights gathered
        "fsdp2": 3,  # weights gathered for the forward and the backward pass, gradients scattered
        "zero3": 3,
    }
    if strategy == HYBRID:
        return traffic(trained, "fsdp2", GPUS_PER_NODE) + between_nodes(trained, gpus)
    return (gpus - 1) / gpus * passes[strategy] * trained


def between_nodes(trained: int, gpus: int) -> float:
    """Compute the share that crosses nodes with shards within each node: an all-reduce of gradients."""
    return traffic(trained // GPUS_PER_NODE, "ddp", gpus // GPUS_PER_NODE)


def main() -> None:
    """Print a table for docs/scale.md, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            (folder / "config.json").write_text(json.dumps(shape))
            build_tokenizer().save_pretrained(folder)
            stage = build_stage(folder)
            found = {
                "ddp": plan_memory(stage, ROLLOUTS, precision=PRECISION),
                "fsdp": plan_memory(stage, ROLLOUTS, precision=PRECISION, whole=False),
                "zero": plan_memory(stage, ROLLOUTS, precision=PRECISION, float32_copies=True, whole=False),
            }
        for strategy in STRATEGIES:
            for gpus in GPUS:
                plan = next(each for start, each in found.items() if strategy.startswith(start))
                rows.append(row(plan, name, strategy, gpus))
                show(rows[-1])
    if options.json:
        settings = {"prompt": PROMPT, "response": RESPONSE, "rollouts_per_gpu": ROLLOUTS, "precision": PRECISION}
        settings["torch"] = torch.__version__
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


def row(needed: MemoryPlan, name: str, strategy: str, gpus: int) -> dict[str, Any]:
    """One model under one strategy on so many GPUs."""
    groups = {"class_path": "FSDP2Strategy", "init_args": {"replicas": gpus // GPUS_PER_NODE}}
    found = needed.on_one_process(gpus, shards_of(groups if strategy == HYBRID else strategy))
    size = 2 if strategy.startswith("zero") else 4  # weights and gradients pass between GPUs in the weights' type
    trained = sum(size * each.num_parameters for each in found.models if each.name in ("policy", "critic"))
    return {
        **{"model": name, "strategy": strategy, "gpus": gpus},
        "lasting": sum(each.total for each in found.models),
        "rollout": found.phases["rollout"],
        "update": found.phases["update"],
        "traffic": traffic(trained, strategy, gpus),
        "between_nodes": between_nodes(trained, gpus) if strategy == HYBRID else None,
    }


def show(found: dict[str, Any]) -> None:
    """Print a line of the table."""
    sizes = " | ".join(f"{found[name] / GIB:.1f}" for name in ("lasting", "rollout", "update", "traffic"))
    print(f"| {found['model']} | {found['strategy']} | {found['gpus']} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
