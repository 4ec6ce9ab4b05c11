"""Scoring and update of pairwise PPO with what is computed once, beside computing it again: time and memory as ratios.

python benchmarks/score_once.py --json score_once.json

A random Llama whose responses are drawn without it, so that an iteration is scoring and update alone. Adapters are on
the upper half of its layers. Contestants take turns in one process and have to end with equal weights, to the bit. Time
is processor time of both phases, its median over iterations behind the first one, in which models are tried. Memory is
the most bytes of tensors beside weights that are alive together, in a run of its own, because counting takes time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from beside_trl import TRAINER
from transformers import LlamaConfig, LlamaForCausalLM

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from prl.config import CriticSettings, LoRA, ModelSource, Optimization, Resources, Sampling, Update
from prl.data import DataSource
from prl.models.memory import PeakOfTensors
from prl.quickstart.tokenizer import build_tokenizer
from prl.rewards import RuleReward
from prl.rollouts.generate import decode
from prl.types import PromptBatch, Rollout

WORKS: dict[str, tuple[str, bool, int, int]] = {
    "own critic, one step": ("own", False, 1, 1),
    "own critic, adapters, one step": ("own", True, 1, 1),
    "critic by adapters, one step": ("adapter", True, 1, 1),
    "critic by adapters, 4 epochs of 2 steps": ("adapter", True, 4, 2),
}
"""Name -> kind of the critic, adapters on the upper half, epochs, minibatches."""
WAYS = {
    "again": Resources(reuse_scoring=False, reuse_frozen_layers=False),
    "scored once": Resources(reuse_frozen_layers=False),
    "frozen once": Resources(reuse_scoring=False),
    "both": Resources(),
}
TINY = {"rows": 2, "prompt": 8, "response": 6, "hidden_size": 32, "layers": 2, "iterations": 2, "rounds": 1}


def vowels(prompt: Any, response: str, row: dict[str, Any]) -> float:
    """Reward a response by its vowels."""
    return float(sum(map(response.count, "aeiou")))


class ScoringAndUpdate(PairwisePPOModule):
    """Draws responses at random without the policy, and measures the phases behind."""

    counts_memory = False

    def generate(self, batch: PromptBatch, *, training: bool = True) -> Rollout:
        """Draw full-length responses; the same ones in each run of an iteration."""
        generator = torch.Generator().manual_seed(self.batches_done())
        shape = (len(batch), self.sampling.max_new_tokens)
        ids = torch.randint(5, len(self.tokenizer), shape, generator=generator)
        mask, finished = torch.ones(shape, dtype=torch.bool), torch.zeros(shape[0], dtype=torch.bool)
        texts = decode(self.tokenizer, ids, mask, finished)
        return Rollout(batch, ids, mask, finished, texts, shape[1])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the processor time of scoring and update."""
        start = time.process_time()
        yield
        if name in ("score", "update"):
            self.seconds[-1] += time.process_time() - start

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Any:
        """Begin the figures of an iteration."""
        if not batch_idx:
            self.seconds, self.bytes = list[float](), 0
        self.seconds.append(0.0)
        if not self.counts_memory:
            return super().training_step(batch, batch_idx)
        with PeakOfTensors([*self.parameters(), *self.buffers()]) as tracker:
            found = super().training_step(batch, batch_idx)
        self.bytes = tracker.peak  # of the last iteration: the first one makes the optimizer's state
        return found


def write_inputs(options: argparse.Namespace, folder: Path) -> None:
    """Write a random Llama of characters, and prompts of one length."""
    tokenizer = build_tokenizer()
    lightning.seed_everything(0, verbose=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=8 * options.hidden_size // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 32,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompt = "abcdefgh" * options.prompt
    rows = [{"prompt": f"{n:03d}{prompt}"[: options.prompt]} for n in range(options.rows * options.iterations)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(
    options: argparse.Namespace, folder: Path, work: str, way: str, *, counts_memory: bool = False
) -> tuple[list[float], int, dict[str, Any]]:
    """Train some iterations; return seconds of each, peak bytes, and the trained weights."""
    kind, adapted, epochs, minibatches = WORKS[work]
    upper = "|".join(map(str, range(options.layers // 2, options.layers)))
    lora = LoRA(rank=8, target_modules=rf"(.*\.)?layers\.({upper})\..*_proj") if adapted else None
    lightning.seed_everything(0, verbose=False)
    module = ScoringAndUpdate(
        ModelSource(path=str(folder), lora=lora),
        RuleReward(vowels),
        iterations=options.iterations,
        max_prompt_length=2 * options.prompt,
        sampling=Sampling(options.response),
        update=Update(epochs, minibatches, options.rows // minibatches),
        critic=CriticSettings(kind=kind),  # type: ignore[arg-type]
        optimization=Optimization(1e-4),
        resources=WAYS[way],
    )
    module.counts_memory = counts_memory
    source = DataSource(str(folder / "prompts.jsonl"))
    trainer = lightning.Trainer(**{**TRAINER, "gradient_clip_val": None}, accelerator="cpu", default_root_dir=folder)
    trainer.fit(module, PromptDataModule(source, source, batch_size=options.rows, num_workers=0))
    weights = {name: each.detach().clone() for name, each in module.named_parameters() if each.requires_grad}
    return module.seconds[1:], module.bytes, weights


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let the ways of each kind of work take turns. Raises SystemExit for weights that differ."""
    figures: dict[str, Any] = {}
    for work in options.works:
        _, adapted, epochs, minibatches = WORKS[work]
        ways = [way for way in WAYS if adapted or way in ("again", "scored once")]
        ways = [way for way in ways if epochs * minibatches == 1 or way in ("again", "frozen once")]
        seconds, ends = {way: list[float]() for way in ways}, dict[str, Any]()
        for turn in range(options.rounds):
            for way in ways if turn % 2 else ways[::-1]:
                found, _, ends[way] = run(options, folder, work, way)
                seconds[way] += found
        for way in ways:
            if any(not torch.equal(each, ends["again"][name]) for name, each in ends[way].items()):
                raise SystemExit(f"{work}, {way}: other weights than with everything computed again")
        peaks = {way: run(options, folder, work, way, counts_memory=True)[1] for way in ways}
        plain = statistics.median(seconds["again"])
        figures[work] = {
            way: {
                "seconds": statistics.median(seconds[way]),
                "of_again": statistics.median(seconds[way]) / plain,
                "peak_mib": peaks[way] / 2**20,
                "memory_of_again": peaks[way] / peaks["again"],
            }
            for way in ways
        }
        for way, each in figures[work].items():
            shown = f"{each['seconds']:7.2f} s {each['of_again']:5.2f} {each['peak_mib']:7.1f} MiB"
            print(f"{work:42} {way:12} {shown} {each['memory_of_again']:5.2f}", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Measure all works and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"rows": 8, "prompt": 48, "response": 48, "hidden-size": 192, "layers": 8, "iterations": 3, "rounds": 3}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--works", nargs="+", choices=list(WORKS), help="all if none is named, one if tiny")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, whose figures mean nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    options.works = options.works or (list(WORKS)[2:3] if options.tiny else list(WORKS))
    torch.set_num_threads(1)
    load = [os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(options, Path(folder))
        figures = measure(options, Path(folder))
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    load.append(os.getloadavg())
    found = {"torch": torch.__version__, "sizes": settings, "load": load, "figures": figures}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
