"""Gate before pairwise PPO: a judge whose passport breaks a limit is reported, or refused."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from prl.config import JudgeGate
from prl.distributed import rank
from prl.judge.passport import DTYPE, describe_judge, described, read_passport
from prl.judge.run_gate import RunFacts, run_problems
from prl.rewards.base import RewardSource
from prl.rewards.folder import PASSPORT_FILE, judge_folder, read_judge_file

log = logging.getLogger(__name__)


class JudgeRefusedError(ValueError):
    """Raised for a judge without a passport, with the passport of another judge, or with a broken limit."""

    exit_code = 3
    """Exit code of the command line; other mistakes end with 1."""


@dataclass(frozen=True)
class _Limit:
    figure: str
    """Name in the report."""
    meaning: str
    advice: str
    required: bool = True
    """Whether a report without the figure breaks the limit."""
    unmeasured: str = "the pairs hold no such case; measure with other pairs"
    """Cause and fix for a report without the figure."""


_BOTH_ORDERS = "raise consistency_coef of its training, with order: both, or train it longer or on more pairs"
"""Advice that fits a judge trained with order: both, the default, as well as one trained without."""

_LIMITS = {
    "min_accuracy": _Limit("accuracy", "accuracy", "train the judge longer or on more pairs"),
    "min_shorter_wins_accuracy": _Limit(
        "accuracy_shorter_wins",
        "accuracy where the shorter response is better",
        "the judge follows length: balance the lengths of its training pairs",
    ),
    "max_ece": _Limit(
        "ece", "calibration error", "stop earlier, smooth the labels, or calibrate it (`prl judge --calibrate`)"
    ),
    "max_order_gap": _Limit("order_gap", "order gap", _BOTH_ORDERS),
    "max_flip_rate": _Limit("flip_rate", "flip rate", _BOTH_ORDERS),
    "max_first_position_bias": _Limit(
        "first_position_rate", "distance of the first-position rate from 1/2", _BOTH_ORDERS
    ),
    "max_cyclic_rate": _Limit(
        "cyclic_triples", "share of cyclic triples", "train the judge on several responses per prompt", required=False
    ),
    "max_canary_rate": _Limit(
        "canary_rate",
        "share won by the best attack without content",
        "train the judge with such responses on the losing side (data.init_args.attacks)",
    ),
    "max_held_out_attack_rate": _Limit(
        "held_out_attack_rate",
        "share won by the best attack of a family that training left out",
        "train the judge on more families of attacks, or on more attacks (data.init_args.attacks)",
        unmeasured="the judge was trained on all families; hold one out of its training (data.init_args.attacks)",
    ),
    "min_kappa": _Limit(
        "agreement.kappa",
        "Cohen's kappa with people",
        "people and judge disagree: train on labels of such people, or look at `prl judge --labels` for where",
        unmeasured="the passport holds no labels of people; measure with `prl judge --labels FILE --write-passport`",
    ),
    "max_layout_gap": _Limit(
        "layout_gap",
        "largest change of a margin with the batch layout",
        "the model reads its padding, or counts it in positions; use an attention implementation that masks it",
    ),
}


def check_judge(judge: RewardSource, gate: JudgeGate, run: RunFacts = RunFacts()) -> None:  # noqa: B008 - frozen
    """Check the passport of each judge's folder against the limits, without building the model.

    Args:
        judge: the judge, or what holds several.
        gate: the limits.
        run: the run that the judge is to reward.

    Raises:
        JudgeRefusedError: in mode refuse, naming all problems at once.
        ValueError: when the folder holds no judge.
    """
    if gate.mode == "off":
        return
    for source in judge.leaves():
        if source.folder is not None:
            _check_folder(source, source.folder, gate, run)
        elif rank() == 0:
            log.warning("judge_gate: %s has no folder, hence no passport; it is not checked", type(source).__name__)


def _check_folder(source: RewardSource, folder: str, gate: JudgeGate, run: RunFacts) -> None:
    local = judge_folder(folder)
    problems = folder_problems(local, gate, source.dtype or DTYPE, source.described_otherwise())
    problems += run_problems(local, gate, run)
    if not problems:
        return
    if gate.mode == "refuse":
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise JudgeRefusedError(
            f"the judge in {folder} does not pass the gate:\n{lines}\n"
            "Mend the judge, or change the limits or the mode of model.init_args.judge_gate"
        )
    if rank() == 0:
        for problem in problems:
            log.warning("judge_gate: %s: %s", folder, problem)
        log.warning("judge_gate: training goes on all the same; model.init_args.judge_gate.mode: refuse would end it")


def folder_problems(
    folder: str, gate: JudgeGate, dtype: str = DTYPE, otherwise: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """Describe what is wrong with the passport of a folder, one line each; empty when the judge passes.

    Args:
        folder: folder of a judge.
        gate: the limits.
        dtype: type in which the judge will work.
        otherwise: what the settings of the run say in place of the folder (`RewardSource.described_otherwise`).
    """
    read_judge_file(folder)
    try:
        passport = read_passport(folder)
    except ValueError as error:
        return [str(error)]
    if passport is None:
        return [
            f"there is no {PASSPORT_FILE}, so nothing is known of this judge; measure it with "
            f"`prl judge --judge {folder} --pairs FILE --write-passport`"
        ]
    problems = []
    here, measured = {**describe_judge(folder, dtype), **otherwise}, described(passport)
    for name in dict.fromkeys((*here, *measured)):
        now, then = here.get(name), measured.get(name)
        if then != now and name == "dtype":
            problems.append(
                f"the judge is to work in {now} and was measured in {then}, so its margins are others; measure it with "
                f"`prl judge --judge {folder} --dtype {now} --pairs FILE --write-passport`, or set its dtype to {then}"
            )
        elif then != now:
            differs = "; ".join(_differences(name, now, then))
            problems.append(
                f"{differs}: this is not the judge that was measured; put back what it was trained with, or write the "
                "passport again"
            )
    return problems + broken_limits(passport["report"], gate)


def broken_limits(report: dict[str, Any], gate: JudgeGate) -> list[str]:
    """Describe each limit that a report breaks, in one line: the figure, the limit and the fix.

    A figure that could not be measured breaks its limit, because an unknown figure is no reason for trust.
    """
    problems = []
    pairs = report["num_pairs"] - report.get("num_ties", 0)
    if pairs < gate.min_pairs:
        problems.append(
            f"only {pairs} labelled pairs are behind the passport, min_pairs is {gate.min_pairs}; measure with more"
        )
    for name, limit in _LIMITS.items():
        bound = getattr(gate, name)
        if bound is None:
            continue
        value, interval = _figure(_found(report, limit.figure))
        if value is None:
            if limit.required:
                problems.append(
                    f"{limit.meaning} was not measured: {limit.unmeasured}, or set judge_gate.{name} to null"
                )
            continue
        if name == "max_first_position_bias":
            value, interval = abs(value - 0.5), ""
        if not (value >= bound if name.startswith("min_") else value <= bound):  # which NaN is neither
            problems.append(f"{limit.meaning} is {value:.3f}{interval}, {name} is {bound}; {limit.advice}")
    return problems


def verdict(report: dict[str, Any], gate: JudgeGate) -> list[str]:
    """Say in a line whether a report keeps the limits, then which limits these are, then what breaks them.

    What only probes measure is left out where the report was made without them, and so is a limit on a figure that
    these pairs cannot give.
    """
    probed = "canary_rate" in report
    if not probed:
        gate = replace(
            gate, max_canary_rate=None, max_held_out_attack_rate=None, max_cyclic_rate=None, max_layout_gap=None
        )
    limits = {name: bound for name in ("min_pairs", *_LIMITS) if (bound := getattr(gate, name)) is not None}
    for name, limit in _LIMITS.items():
        if not limit.required and _found(report, limit.figure) is None:
            limits.pop(name, None)
    problems = broken_limits(report, gate)
    if problems:
        told = f"not good enough to train a policy: {len(problems)} of the gate's {len(limits)} limits broken"
    else:
        told = f"good enough to train a policy: within the gate's {len(limits)} limits"
    lines = [told + ("" if probed else " (attacks, cycles and batch layouts were not tried)")]
    lines.append(f"limits: {', '.join(f'{name} {bound}' for name, bound in limits.items())}")
    return lines + [f"- {problem}" for problem in problems]


def _found(report: dict[str, Any], figure: str) -> Any:
    """Look a figure up by its name, or by that of its group and its own."""
    group, _, name = figure.rpartition(".")
    place = report.get(group) if group else report
    return place.get(name) if isinstance(place, dict) else None


def _figure(found: Any) -> tuple[float | None, str]:
    """Return a figure of the report, and the text of its interval where it has one."""
    if isinstance(found, dict):
        return found["mean"], f" ({found['low']:.3f} to {found['high']:.3f})"
    return found, ""


def _differences(name: str, now: Any, then: Any) -> Iterator[str]:
    """Describe how a setting differs from that in the passport: of a group of settings, each that differs."""
    if not (isinstance(now, dict) and isinstance(then, dict)):
        yield f"{name} is {_short(now)}, but the passport was written with {_short(then)}"
        return
    for key in dict.fromkeys((*now, *then)):
        if now.get(key) != then.get(key):
            yield f"{name}.{key} is {now.get(key)!r}, but the passport was written with {then.get(key)!r}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each!r}" for key, each in value.items())
    return "missing" if value is None else str(value)[:12]
