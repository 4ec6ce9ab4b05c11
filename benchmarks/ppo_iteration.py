"""One iteration of pairwise PPO on rows made for it, by a plain Lightning trainer: seconds, memory, and what it needs.

Shared by ppo_vs_trl.py, floors.py and growth.py. What TRL's worker needs of this file imports nothing of prl.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beside_trl import TRAINER, peak_gib
from needed_work import ADAMW_BYTES, Rates, Shape, Tokens, distinct_tokens, measure_rates, sampling_seconds
from ppo_inputs import TEMPLATE, Work


def clock_for(threads: int) -> Callable[[], float]:
    """Seconds of the processor with one thread, which other programs disturb less; of the clock with several."""
    return time.process_time if threads == 1 else time.perf_counter


def reset_peak() -> None:
    """Begin the count of the most memory anew, on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class IterationClock:
    """Seconds of iterations and of their phases; the first iteration is not counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.ends, self.phases = clock, list[float](), list[dict[str, float]]()
        self.start_gib = peak_gib()
        self.peaks = {"start": self.start_gib}

    def tick(self, phases: Mapping[str, float], peaks: Mapping[str, float] | None = None) -> None:
        """Mark the end of an iteration, with seconds and, where they are known, memory peaks of its phases."""
        self.ends.append(self.clock())
        self.phases.append(dict(phases))
        for name, peak in {**(peaks or {}), "end": peak_gib()}.items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), peak)

    def result(self) -> dict[str, Any]:
        """Return median seconds of an iteration and of each phase, and memory."""
        spans = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        names = self.phases[-1]
        phases = {name: statistics.median(each.get(name, 0.0) for each in self.phases[1:]) for name in names}
        peak = max(self.peaks.values())
        return {
            **{"seconds": statistics.median(spans), "phases": phases, "iterations": len(spans)},
            **{"peak_gib": peak, "peak_above_start_gib": peak - self.start_gib},
        }


def build_module(work: Work, options: argparse.Namespace) -> Any:
    """Configure pairwise PPO: the policy's weights judge in both orders; the critic is of its own, or an adapter."""
    import lightning_modules
    from prl.config import CriticSettings, Health, JudgeGate, LoRA, ModelSource, Optimization, Sampling, Update
    from prl.judge import GenerativeJudge, JudgeTemplate

    class Observed(lightning_modules.PairwisePPOModule):
        """Keeps the last rollout, for its tokens."""

        def judge_responses(self, rollout: Any) -> Any:
            self.seen = rollout
            return super().judge_responses(rollout)

    adapter = options.worker == "adapter"
    judge: dict[str, Any] = {"max_length": options.judge_length}
    if options.characters:
        judge["template"] = JudgeTemplate(TEMPLATE, chat=False)
    module = Observed(
        policy=ModelSource(path=str(options.model), lora=LoRA() if adapter else None),
        reward=GenerativeJudge(str(options.model), **judge),
        judge_gate=JudgeGate(mode="off"),
        iterations=options.iterations + 1,
        sampling=Sampling(max_new_tokens=work.response_tokens, per_prompt=work.per_prompt),
        critic=CriticSettings(kind="adapter" if adapter else "own"),
        health=Health(max_skipped=10**6, min_entropy=None, max_empty=None, max_saturated=None),
        update=Update(work.epochs, work.minibatches, microbatch_size=work.rows // work.minibatches),
        optimization=Optimization(learning_rate=1e-6),
        max_prompt_length=options.prompt_length,
    )
    module.seen = None
    return module


def run_prl(options: argparse.Namespace) -> dict[str, Any]:
    """Run iterations of prl as a worker, and compare its phases with what they need on this machine."""
    now = clock_for(options.threads)
    rates = measure_rates(now, mib=options.mib)
    module, clock = run_iterations(options)
    rates = rates.best(measure_rates(now, mib=options.mib))
    floors = phase_floors(module, Work(**json.loads(options.work)), rates, adapter=options.worker == "adapter")
    return {
        **clock.result(),
        "response_tokens": int(module.seen.response_mask.sum()),
        "floors": floors,
        "rates": asdict(rates),
    }


def run_iterations(options: argparse.Namespace) -> tuple[Any, IterationClock]:
    """Run iterations of prl, and return the module and what its clock found."""
    import lightning
    import torch

    import lightning_modules  # noqa: F401 - what it imports is no memory of the run
    import prl.rl.phase_timer as phase_timer

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work, now = Work(**json.loads(options.work)), clock_for(options.threads)
    phase_timer.perf_counter = now
    reset_peak()
    clock = IterationClock(now)
    module = build_module(work, options)

    class Iterations(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            clock.peaks["start"] = peak_gib()  # phases begin the count of memory anew

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            clock.tick(module.meter.seconds, module.meter.peak_gib)

    fit(module, work, options, Iterations())
    return module, clock


def fit(module: Any, work: Work, options: argparse.Namespace, callback: Any) -> None:
    """Train by a plain Lightning trainer; no token ends a response."""
    import lightning

    from datamodules import PromptDataModule
    from prl.data import DataSource

    class Endless(lightning.Callback):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            module.actors.end_ids = [module.policy.get_input_embeddings().num_embeddings]  # which no model samples

    source = DataSource(str(options.rows))
    data = PromptDataModule(
        train=source, validation=source, batch_size=work.prompts, group_by_length=False, num_workers=0
    )
    trainer = lightning.Trainer(
        **{**TRAINER, "gradient_clip_val": None, "log_every_n_steps": 1},
        accelerator="cpu",
        max_epochs=-1,
        default_root_dir=options.folder,
        callbacks=[Endless(), callback],
    )
    trainer.fit(module, data)


def phase_floors(module: Any, work: Work, rates: Rates, *, adapter: bool) -> dict[str, float]:
    """Compute the least seconds of each phase of the last iteration.

    The judge reads what both orders of a prompt share once. Scoring reads the reference; policy and critic too, unless
    the iteration has one optimizer step, whose own forward pass gives their numbers. The update reads every row once an
    epoch, forward and backward, for the policy with its language head and for the critic; adapters on frozen weights
    need no gradient of these weights. AdamW then moves its bytes.
    """
    shape, rollout, batch = Shape.of(module.reward.model), module.seen, module.seen.batch
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    responses = [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    whole = by_prompt(rollout.group.tolist(), [p + r for p, r in zip(prompts, responses, strict=True)])
    readings = [
        list(reading)
        for prompt, response, anchors in zip(batch.prompts, rollout.texts, batch.anchors, strict=True)
        for reading in module.reward.encoder.compare(prompt, response, anchors[0])
    ]
    judged = by_prompt([n for n in rollout.group.tolist() for _ in range(2)], readings)
    body, head = shape.forward(whole), shape.head(sum(map(len, responses)))
    scored = body + head + (0 if work.steps == 1 else 2 * body + head)
    passes = 2 if adapter else 3
    trained = sum(each.numel() for each in module.parameters() if each.requires_grad)
    unique = prompts[:: work.per_prompt]
    return {
        "rollout": sampling_seconds(shape, rates, unique, work.per_prompt, len(responses[0])),
        "judge": shape.forward(judged) / rates.operations,
        "score": scored / rates.operations,
        "update": work.epochs * passes * (2 * body + head) / rates.operations
        + work.steps * trained * ADAMW_BYTES / rates.copied,
    }


def by_prompt(groups: Sequence[int], rows: Sequence[Sequence[int]]) -> Tokens:
    """Count the tokens of rows, what rows of a prompt begin with once."""
    found: dict[int, list[Sequence[int]]] = {}
    for group, row in zip(groups, rows, strict=True):
        found.setdefault(group, []).append(row)
    return sum(map(distinct_tokens, found.values()), Tokens())


def add_iteration_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a worker of an iteration is started with."""
    parser.add_argument("--work", help=argparse.SUPPRESS)
    for name in ("--prompt-length", "--judge-length", "--characters", "--mib"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
