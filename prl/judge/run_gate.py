"""What the gate asks of a judge for one run: the policy's base, and the prompts of the run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prl.config import JudgeGate, ModelSource
from prl.judge.lineage import base_of_source, is_same_base
from prl.judge.prompt_sketch import PromptSketch
from prl.judge.training_record import read_training
from prl.rewards.folder import TRAINING_FILE


@dataclass(frozen=True)
class RunFacts:
    """The run that a judge is to reward. What is None is not known, and breaks the limits that need it."""

    policy: ModelSource | None = None
    """Where the policy starts."""
    prompts: np.ndarray | None = None
    """SHA-256 of its training prompts, [N] S32."""


def run_problems(folder: str, gate: JudgeGate, run: RunFacts) -> list[str]:
    """Describe each limit on judge and run together that is broken, in one line.

    Args:
        folder: folder of a judge.
        gate: the limits.
        run: the run.
    """
    if gate.same_base is None and gate.max_prompt_overlap is None:
        return []
    try:
        record = read_training(folder)
    except ValueError as error:
        return [str(error)]
    return [*_base_problems(record, gate, run), *_prompt_problems(record, gate, run)]


def prompt_overlap(record: dict[str, Any] | None, prompts: np.ndarray | None) -> float | None:
    """Compute the share of a run's prompts that the judge was trained on; None where it is not known."""
    if record is None or record["prompts"] is None or prompts is None:
        return None
    return PromptSketch.from_json(record["prompts"]).share_of(prompts)


def _base_problems(record: dict[str, Any] | None, gate: JudgeGate, run: RunFacts) -> list[str]:
    if gate.same_base is None:
        return []
    known = record is not None and record["base"] is not None and run.policy is not None
    same = is_same_base(record["base"], base_of_source(run.policy)) if known else None  # type: ignore[index, arg-type]
    if same is None:
        return [
            f"whether judge and policy come from one base model is not known{_cause(record)}; {_or_null('same_base')}"
        ]
    if same and not gate.same_base:
        return [
            "judge and policy come from one base model, same_base is False; train the judge from another model, which "
            "does not share the policy's blind spots"
        ]
    if not same and gate.same_base:
        return [
            "judge and policy come from different base models, same_base is True; train the judge from the model that "
            "the policy starts from"
        ]
    return []


def _prompt_problems(record: dict[str, Any] | None, gate: JudgeGate, run: RunFacts) -> list[str]:
    if gate.max_prompt_overlap is None:
        return []
    share = prompt_overlap(record, run.prompts)
    if share is None:
        told = f"how many prompts of the run were in the judge's training is not known{_cause(record)}"
        return [f"{told}; {_or_null('max_prompt_overlap')}"]
    if share > gate.max_prompt_overlap:
        return [
            f"share of the run's prompts that were in the judge's training is {share:.3f}, max_prompt_overlap is "
            f"{gate.max_prompt_overlap}; take other prompts for the run, or for the judge"
        ]
    return []


def _cause(record: dict[str, Any] | None) -> str:
    return f": there is no {TRAINING_FILE}, which prl writes beside a judge that it trains" if record is None else ""


def _or_null(name: str) -> str:
    return f"train the judge with prl, or set judge_gate.{name} to null"
