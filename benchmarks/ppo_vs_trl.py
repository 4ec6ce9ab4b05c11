"""An iteration of pairwise PPO beside TRL 1.9.2's PPOTrainer, the last release that has one: time and memory as ratios.

python -m venv trl-env && trl-env/bin/pip install torch==2.13.0 trl==1.9.2
python benchmarks/ppo_vs_trl.py --trl-python trl-env/bin/python --json ppo_vs_trl.json
python benchmarks/ppo_vs_trl.py --trl-python trl-env/bin/python --size smollm2 --model DIR --json ppo_vs_trl_135m.json

Same weights, prompts, tokens, optimizer steps, batch of a forward pass, float32, threads. Responses have one length: no
token ends one. TRL scores each response once with its scalar model; prl compares it with an anchor in both orders, so
time is counted twice: whole, and without judge and scalar model. `own` trains a critic of its own, as TRL does;
`adapter` trains LoRA adapters as policy and critic on one base model, `trl_lora` the same of the policy with TRL.

Each run is a process of its own, the contestants take turns, and the first iteration of a run is not counted. With one
thread time is that of the processor. Beside it are prl's phases, and the least that each needs on this machine:
floors.py says how that is counted.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from beside_trl import add_worker_options, ratios, run_worker
from ppo_inputs import SIZES, Work, prepare
from ppo_iteration import IterationClock, add_iteration_options, clock_for, run_prl

CONTESTANTS = {
    "tiny": ("trl", "own"),
    "small": ("trl", "own"),
    "smollm2": ("trl", "own", "adapter", "trl_lora"),
}
FIGURES = ("seconds", "without_judge", "peak_gib", "peak_above_start_gib")


def run_trl(options: argparse.Namespace) -> dict[str, Any]:
    """Run iterations of the installed TRL's PPOTrainer as a worker. Imports nothing of prl."""
    import torch
    import trl
    import trl.experimental.ppo.ppo_trainer as ppo
    from transformers import TrainerCallback

    torch.set_num_threads(options.threads)
    work, now = Work(**json.loads(options.work)), clock_for(options.threads)
    clock, phases = IterationClock(now), PhasesOfTRL(ppo, now)

    class Iterations(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            phases.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            phases.mark("update")
            clock.tick(phases.seconds)
            phases.begin()

    trainer = trainer_of_trl(options, work, phases)
    trainer.add_callback(Iterations)
    trainer.train()
    return {**clock.result(), "response_tokens": phases.response_tokens, "version": trl.__version__}


class PhasesOfTRL:
    """Seconds of sampling, scalar model, scoring and update, by the functions of TRL's trainer that begin and end them.

    Args:
        trainer: TRL's module of the trainer, whose functions are wrapped.
        now: seconds.
    """

    def __init__(self, trainer: Any, now: Any) -> None:
        self.now, self.seconds, self.last = now, dict[str, float](), 0.0
        self.reward_model: Any = None
        self.response_tokens = 0
        self.sample, self.reward, self.whiten = trainer.batch_generation, trainer.get_reward, trainer.masked_whiten
        trainer.batch_generation, trainer.get_reward = self._sample, self._reward
        trainer.masked_whiten = self._whiten

    def begin(self) -> None:
        """Begin an iteration."""
        self.seconds, self.last = {}, self.now()

    def mark(self, phase: str) -> None:
        """Count the time since the last mark to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + self.now() - self.last
        self.last = self.now()

    def _sample(self, model: Any, queries: Any, *args: Any) -> Any:
        found = self.sample(model, queries, *args)
        self.response_tokens = found[0].numel() - queries.numel()
        self.mark("rollout")
        return found

    def _reward(self, model: Any, *args: Any) -> Any:
        if model is not self.reward_model:
            return self.reward(model, *args)
        self.mark("score")
        found = self.reward(model, *args)
        self.mark("judge")
        return found

    def _whiten(self, *args: Any, **options: Any) -> Any:
        found = self.whiten(*args, **options)
        self.mark("score")
        return found


def trainer_of_trl(options: argparse.Namespace, work: Work, phases: PhasesOfTRL) -> Any:
    """Configure TRL's trainer for the same work; its end token is an ordinary one."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    def load(kind: Any, **extra: Any) -> Any:
        return kind.from_pretrained(options.model, dtype=torch.float32, **extra)

    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    if tokenizer.pad_token == tokenizer.eos_token:  # which responses go on after, and TRL takes it for padding
        tokenizer.pad_token = tokenizer.unk_token
    settings = PPOConfig(
        output_dir=options.folder,
        per_device_train_batch_size=work.rows,  # of which a minibatch is one forward pass
        gradient_accumulation_steps=1,
        num_mini_batches=work.minibatches,
        num_ppo_epochs=work.epochs,
        total_episodes=work.rows * (options.iterations + 1),
        local_rollout_forward_batch_size=work.rows,
        response_length=work.response_tokens,
        temperature=1.0,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [json.loads(line)["input_ids"] for line in Path(options.rows).read_text().splitlines()]
    scalar = AutoModelForSequenceClassification
    phases.reward_model = load(scalar, num_labels=1)
    lora = None
    if options.worker == "trl_lora":
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    return PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=load(AutoModelForCausalLM),
        ref_model=None if lora else load(AutoModelForCausalLM),
        reward_model=phases.reward_model,
        value_model=load(scalar, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": [ids for ids in rows for _ in range(work.per_prompt)]}),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:1]}),  # which its constructor needs
        peft_config=lora,
    )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds of all contestants; give medians, ratios to TRL where it takes part, and floors of prl's phases.

    Raises:
        SystemExit: when the contestants sampled different numbers of tokens.
    """
    work, names = SIZES[options.size], tuple(options.contestants or CONTESTANTS[options.size])
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    found: dict[str, Any] = {"settings": {name: str(getattr(options, name)) for name in SETTINGS}}
    found |= {"work": vars(work), "load": [os.getloadavg()]}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        given = prepare(work, options.model, Path(folder), options.iterations)
        rows = given.pop("rows")
        for number in range(options.rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                run = run_worker(__file__, name, options, rows, {**given, "threads": options.threads})
                runs[name].append({**run, "without_judge": run["seconds"] - run["phases"]["judge"]})
                print(options.size, number, name, run, file=sys.stderr, flush=True)
            found["load"].append(os.getloadavg())
            found |= {"runs": runs, "wall_seconds": time.perf_counter() - start, **figures_of(runs)}
            if options.json:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def figures_of(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Give medians over the runs, ratios to TRL, and of each contestant its phases and their ratios to the floors."""
    if len(tokens := {run["response_tokens"] for some in runs.values() for run in some}) > 1:
        raise SystemExit(f"the contestants sampled different numbers of tokens: {sorted(tokens)}")
    known = {name: some for name, some in runs.items() if some}
    phases: dict[str, Any] = {}
    for name, some in known.items():
        phases[name] = {
            phase: {
                "seconds": median(run["phases"][phase] for run in some),
                **floor_of(phase, some),
            }
            for phase in some[0]["phases"]
        }
    return {**ratios(known, FIGURES), "phases": phases}


def floor_of(phase: str, runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Give the floor of a phase and the measured time over it, medians over runs; nothing for phases without one."""
    floors = [(run["phases"][phase], run["floors"][phase]) for run in runs if phase in run.get("floors", ())]
    if not floors:
        return {}
    return {
        "floor": median(floor for _, floor in floors),
        "ratio_to_floor": median(seconds / floor for seconds, floor in floors),
    }


SETTINGS = ("size", "model", "threads", "rounds", "iterations")


def main() -> None:
    """Print one JSON object; as a worker, that of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--model", help="folder of a causal language model; random weights of the size if none")
    parser.add_argument("--trl-python", default="trl-env/bin/python", help="interpreter of the environment with TRL")
    parser.add_argument("--contestants", nargs="+", choices=("trl", "own", "adapter", "trl_lora"))
    parser.add_argument("--iterations", type=int, default=3, help="iterations of a run that count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here, after every round")
    add_worker_options(parser)
    add_iteration_options(parser)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps((run_trl if options.worker.startswith("trl") else run_prl)(options)))
        return
    print(json.dumps(compare(options), indent=2))


if __name__ == "__main__":
    main()
