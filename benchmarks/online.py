"""Methods that learn from rollouts on the quickstart's world: several seeds of each, their true quality and their cost.

Takes a finished quickstart at runs/quickstart; reward models and prompts beyond it are made when they are missing. A
method is its overlay of configs/methods on top of the quickstart's pairwise PPO; a seed decides draws, batches and new
weights. The reward is that of the overlay, the judge or the scalar, unless the name says verifier: 1 for the right
answer, 0 for all others. Methods about length start from a policy that learnt to write dots after each answer, and
their verifier does not mind dots; the policy that is its own referee starts from one that has seen the question. The
gain is in what the method is to improve, over its start: true quality, right answers, tokens, or for several objectives
their weighted sum. The scalar reward is that of the Bradley-Terry model from which some methods learn. Costs are
processor seconds, and texts that a judge or reward model reads (equal ones once, a comparison in both orders twice),
over those of Pairwise-RL with the same seed. A run that is in the results file already is not repeated.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_inputs import INPUTS, QUICKSTART, QUIET, STARTS, THREE_KINDS

from runs import missing_runs, run_options, table

MODEL, TRAIN = "--model.init_args.", "--data.init_args.train.path"
COLUMNS = {
    **{"gold": ("gold quality", 3), "right": ("right answers", 3), "scalar": ("scalar reward", 2)},
    **{"tokens": ("tokens", 2), "kl": ("KL, nats", 2)},
    **{"gain": ("gain in its target", 3), "cost": ("processor time", 2), "readings": ("readings", 2)},
}


@dataclass(frozen=True)
class Method:
    """An overlay on top of pairwise PPO, the verifier in place of its reward if any, and settings on top of both."""

    overlay: str | None = None
    verifier: str | None = None
    settings: tuple[str, ...] = ()
    start: str = "supervised"
    needs: tuple[str, ...] = ()
    """Names in INPUTS of the models and files to make before the run."""
    target: str = "gold"
    """Figure that the method is to improve."""


def source(kind: str, model: str) -> str:
    """Write a reward source by a model of the quickstart for the command line."""
    return json.dumps({"class_path": kind, "init_args": {"path": str(QUICKSTART / model / "model")}})


VERIFIER, DOTTED = "world_rules.is_right", "world_rules.is_right_before_dots"
GAP_ALONE = (f"{MODEL}advantage.init_args.hardness", "false")
SCALAR = ("bradley_terry",)
METHODS = {
    "Pairwise-RL": Method(),
    "GRPO": Method("grpo"),
    "RLOO": Method("rloo"),
    "Think-RM": Method("think_rm"),
    "BRPO": Method("brpo"),
    "BRPO, KL 0.1": Method("brpo", settings=(f"{MODEL}kl.coef", "0.1")),
    "VAPO": Method("vapo"),
    "GRPO, scalar": Method("grpo", settings=(f"{MODEL}reward", source("ScalarReward", "bradley_terry")), needs=SCALAR),
    "GRPO-S": Method("dr_irl", settings=GAP_ALONE, needs=SCALAR),
    "GRPO-S, judge": Method("dr_irl", settings=(*GAP_ALONE, f"{MODEL}reward", source("GenerativeJudge", "judge"))),
    "TP-GRPO": Method("tp_grpo"),
    "P3O": Method("p3o"),
    "GPO": Method("gpo"),
    "PF-PPO": Method("pf_ppo"),
    "DR-PO": Method("dr_po"),
    "Posterior-GRPO": Method("posterior_grpo", needs=SCALAR),
    "BARFI": Method("barfi", needs=SCALAR),
    "PAR": Method("par", needs=SCALAR),
    "LSC": Method("lsc", needs=SCALAR),
    "running mean and std": Method("running_mean_std", needs=SCALAR),
    "the recipe of Unpacking": Method("unpacking_ppo", needs=SCALAR),
    "RTO": Method("rto", needs=(*SCALAR, "preference")),
    "multi-objective GRPO": Method("mo_grpo", needs=("heads",), target="objectives"),
    "RGR-GRPO": Method("rgr_grpo", needs=("rubrics",)),
    "URPO": Method("urpo", settings=(TRAIN, str(THREE_KINDS)), start="refereed"),
    "GRPO, verifier": Method("grpo", VERIFIER, target="right"),
    "NGRPO, verifier": Method("ngrpo", VERIFIER, target="right"),
    "DRPO, verifier": Method("drpo", VERIFIER, target="right"),
    "TRPA, verifier": Method("trpa", VERIFIER, target="right"),
    "TRPA, beta 1, verifier": Method("trpa", VERIFIER, (f"{MODEL}objective.init_args.beta", "1.0"), target="right"),
    "GRPO, dots": Method("grpo", DOTTED, start="dotted", target="tokens"),
    "GRPO-lambda, dots": Method("grpo_lambda", DOTTED, start="dotted", target="tokens"),
    "DRPO, dots": Method("drpo", DOTTED, start="dotted", target="tokens"),
}


class Readings:
    """Counts the texts that judges and reward models read."""

    def __init__(self) -> None:
        from prl.judge.generative import GenerativeJudge
        from prl.rewards.per_response import PerResponseReward

        self.count = 0
        for kind, name in ((GenerativeJudge, "margins"), (PerResponseReward, "_values")):
            setattr(kind, name, self._counted(getattr(kind, name)))

    def _counted(self, read: Any) -> Any:
        def counted(source: Any, texts: list[Any]) -> Any:
            self.count += len(texts)
            return read(source, texts)

        return counted


def settings(method: Method, start: Path, seed: int) -> list[str]:
    """Return configs and settings of a run."""
    found = ["--config", "configs/quickstart/pairwise_ppo.yaml"]
    if method.overlay is not None:
        found += ["--config", f"configs/methods/{method.overlay}.yaml"]
    if method.verifier is not None:
        rule = {"class_path": "prl.rewards.RuleReward", "init_args": {"rule": method.verifier}}
        found += [f"{MODEL}reward", json.dumps(rule)]
    found += [f"{MODEL}policy.path", str(start), "--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
    return [*found, "--trainer.limit_val_batches", "0", *QUIET, *method.settings]


def measure(model: Path, start: Path, *, dots: bool) -> dict[str, float]:
    """Measure a policy's samples against the truth, and how far it is from the start.

    Args:
        model: folder of the policy.
        start: folder of the policy that it started from.
        dots: leave dots after an answer out of its quality.
    """
    from world_rules import is_right, quality

    from prl.config import Sampling
    from prl.quickstart.evaluate import evaluate
    from prl.rewards.scalar import ScalarReward

    scalar = ScalarReward(str(QUICKSTART / "bradley_terry" / "model"))
    scalar.load()
    prompts = QUICKSTART / "world" / "prompts.validation.jsonl"
    found = evaluate(model, prompts, Sampling(max_new_tokens=12), reference=start)
    texts = [(prompt, text.rstrip(".") if dots else text, text) for prompt, text, _ in found.responses]
    said = [([{"role": "user", "content": prompt}], text) for prompt, text, _ in texts]
    gold = sum(quality(prompt, text, {}) for prompt, text in said) / len(said)
    tokens = sum(len(text) for *_, text in texts) / len(texts)
    return {
        "gold": gold,
        "right": sum(is_right(prompt, text, {}) for prompt, text in said) / len(said),
        "scalar": float(scalar.rewards([prompt for prompt, _ in said], [text for _, text in said]).mean()),
        "tokens": tokens,
        "objectives": 0.5 * gold + 0.5 * tokens / 2,  # weights of configs/methods/mo_grpo.yaml, scores of dpa.py
        "kl": found.kl,
    }


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/online", METHODS)
    used = [METHODS[name] for name in dict(options.wanted)]
    for name in dict.fromkeys(["bradley_terry", *(each for method in used for each in method.needs)]):
        INPUTS[name]()
    starts = {name: STARTS[name](options.out) for name in dict.fromkeys(["supervised", *(each.start for each in used)])}
    readings = Readings()

    def one(name: str, seed: int) -> dict[str, Any]:
        from prl.cli.app import run_stage

        method, run = METHODS[name], options.out / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}"
        readings.count, worked = 0, time.process_time()
        own = settings(method, starts[method.start], seed)
        run_stage(["fit", *own, "--run_dir", str(run), "--overwrite", "true", *options.overrides])
        cost, read = time.process_time() - worked, readings.count
        found = measure(run / "model", starts[method.start], dots=method.start == "dotted")
        return {**found, "cpu_seconds": cost, "read": read}

    rows = missing_runs(options.out / "results.jsonl", options.wanted, one)
    for name in {METHODS[row["variant"]].start for row in rows} - starts.keys():
        starts[name] = STARTS[name](options.out)
    at_start = {
        name: measure(start, QUICKSTART / "supervised" / "model", dots=name == "dotted")
        for name, start in starts.items()
    }
    beside = {row["seed"]: row for row in rows if row["variant"] == "Pairwise-RL"}
    for row in rows:
        method = METHODS[row["variant"]]
        row["gain"] = row[method.target] - at_start[method.start][method.target]
        if row["seed"] in beside:
            row["cost"] = row["cpu_seconds"] / beside[row["seed"]]["cpu_seconds"]
            row["readings"] = row["read"] / beside[row["seed"]]["read"]
    first = [{"variant": f"the start, {name}", **found, "kl": 0.0} for name, found in at_start.items()]
    print(table([*first, *rows], "method", COLUMNS))


if __name__ == "__main__":
    main()
