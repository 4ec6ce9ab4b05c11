"""Rows of the table of speed.py, from the objects that the scripts leave, and what each figure should be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAMPLING, PHASE = 1.5, 1.3
"""Most that sampling, and any other phase, should take over its floor."""
NAMES = {"ppo_small": "PPO, 0.87 M weights", "ppo_smollm2": "PPO, SmolLM2's shape"}
CONTESTANTS = {"own": "", "adapter": ", LoRA, critic adapter", "trl_lora": ", TRL with LoRA"}
TARGETS = {("ppo_small", "own"): 0.6, ("ppo_smollm2", "own"): 0.8, ("ppo_smollm2", "adapter"): 0.5}
"""Most time of an iteration over TRL's, the judge included."""


@dataclass(frozen=True)
class Row:
    """One figure, and what it should be."""

    work: str
    figure: str
    found: float
    most: float | None = None
    least: float | None = None
    detail: str = ""

    @property
    def target(self) -> str:
        """Say what the figure should be; nothing where there is no target."""
        if self.most is not None and self.least is not None:
            return f"{self.least:g} to {self.most:g}"
        return f"≤ {self.most:g}" if self.most is not None else "" if self.least is None else f"≥ {self.least:g}"

    @property
    def met(self) -> str:
        """Say whether the figure, as it is shown, is what it should be."""
        if not self.target:
            return ""
        shown = round(self.found, 2)
        return "yes" if (self.least or 0) <= shown <= (self.most or float("inf")) else "no"


def rows_of(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Make the rows of all parts whose objects are given, by name of the part."""
    rows = []
    for part, result in results.items():
        rows += _ppo(part, result) if part in NAMES else PARTS[part](result)
    return rows


def _ppo(part: str, result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name in result["seconds"]:
        work = NAMES[part] + CONTESTANTS.get(name, "")
        if name == "trl":
            continue
        if "seconds_ratio_to_trl" in result:
            for figure, title, most in (
                ("seconds", "iteration / TRL", TARGETS.get((part, name))),
                ("without_judge", "iteration / TRL, without judge and scalar model", None),
                ("peak_gib", "memory / TRL", 1.0 if name == "own" else None),
                ("peak_above_start_gib", "memory above imports / TRL", None),
            ):
                own, theirs = result[figure][name], result[figure]["trl"]
                unit = "GiB" if "gib" in figure else "s"
                detail = f"{own:.3g} / {theirs:.3g} {unit}"
                rows.append(Row(work, title, result[f"{figure}_ratio_to_trl"][name], most, detail=detail))
        phases = _with_floors(result["phases"][name], result["work"])
        if phases and "seconds_ratio_to_trl" in result:
            floors, theirs = sum(each["floor"] for each in phases.values()), result["seconds"]["trl"]
            detail = f"{floors:.3g} / {theirs:.3g} s"
            rows.append(Row(work, "all phases at their floors / TRL", floors / theirs, detail=detail))
        for phase, each in phases.items():
            most = SAMPLING if phase == "rollout" else PHASE
            detail = f"{each['seconds']:.3g} / {each['floor']:.3g} s"
            rows.append(Row(work, f"{phase} / floor", each["ratio_to_floor"], most, detail=detail))
    return rows


def _with_floors(phases: Mapping[str, Any], work: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out phases without a floor, and make one of scoring and update where an iteration has one step.

    One forward pass of policy and critic serves both there, in whichever phase it is made.
    """
    found = {name: each for name, each in phases.items() if "floor" in each}
    if found and work["epochs"] * work["minibatches"] == 1:
        parts = [found.pop(name) for name in ("score", "update")]
        seconds, floor = (sum(part[figure] for part in parts) for figure in ("seconds", "floor"))
        found["score and update"] = {"seconds": seconds, "floor": floor, "ratio_to_floor": seconds / floor}
    return found


def _sampling(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for each in result["results"]:
        work, seconds = f"sampling, SmolLM2's shape, {each['rows']} rows", f"{each['prl']:.3g}"
        floor, generate = f"{seconds} / {each['floor']:.3g} s", f"{seconds} / {each['generate']:.3g} s"
        rows.append(Row(work, "time / floor", each["over_floor"], SAMPLING, detail=floor))
        rows.append(Row(work, "time / `model.generate`", each["over_generate"], 0.5, detail=generate))
    return rows


def _shared_update(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for case in (name for name in result if "share" in name):
        for phase, most in (("update", 0.7), ("scoring", None)):
            each, work = result[case][phase], f"{phase}, {case.replace('share', 'prompt share')}"
            seconds = f"{each['seconds']['auto']:.3g} / {each['seconds']['off']:.3g} s"
            rows.append(Row(work, "time / unshared", each["time"]["auto"], most, detail=seconds))
            rows.append(Row(work, "memory / unshared", each["memory"]["auto"]))
    return rows


def _score_once(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, ways in result["figures"].items():
        best = next(way for way in ("both", "scored once", "frozen once") if way in ways)
        each, work = ways[best], f"scoring and update, {name}"
        seconds = f"{each['seconds']:.3g} / {ways['again']['seconds']:.3g} s"
        rows.append(Row(work, "time once / again", each["of_again"], detail=seconds))
        rows.append(Row(work, "memory once / again", each["memory_of_again"]))
    return rows


STAGES = {"dpo": "DPO", "random": "judge, `order: random`", "both": "judge, `order: both`"}


def _pairs(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, each in result["pairs"].items():
        detail = f"{each['seconds']:.3g} / {each['floor']:.3g} s"
        rows.append(
            Row(
                f"a step of {STAGES[name]}, 0.87 M weights",
                "time / floor",
                each["ratio_to_floor"],
                PHASE,
                detail=detail,
            )
        )
    for name, each in result["tokens"].items():
        rows.append(Row(STAGES[name], "tokens computed / in the rows", each["real"], 1.1))
        rows.append(Row(STAGES[name], "tokens computed / distinct ones of a pair", each["distinct"]))
    return rows


def _dpo(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for share, each in result["shares"].items():
        work = f"DPO, prompt share {share}"
        seconds = f"{each['seconds']['auto']:.3g} / {each['seconds']['trl']:.3g} s"
        rows.append(Row(work, "step / TRL", each["seconds_ratio_to_trl"]["auto"], 0.8, detail=seconds))
        rows.append(Row(work, "memory / TRL", each["peak_gib_ratio_to_trl"]["auto"], 1.0))
    return rows


def _judge(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for order, least in (("random", 1.5), ("both", 0.95)):
        work = f"judge training, `order: {order}`"
        rows.append(Row(work, "pairs/s / TRL's", result["pairs_per_s_ratio_to_trl"][order], least=least))
        rows.append(Row(work, "memory / TRL", result["peak_gib_ratio_to_trl"][order], 1.0))
    return rows


def _growth(result: Mapping[str, Any]) -> list[Row]:
    rows = []
    for size, each in result["growth"].items():
        span = f"{each['sizes'][0]} to {each['sizes'][-1]}"
        for name, title in (("seconds", "slope of time"), ("gib", "slope of memory")):
            ends = [point[name] for point in (each["points"][0], each["points"][-1])]
            unit = "s" if name == "seconds" else "GiB"
            detail = f"{span}: {ends[0]:.3g} to {ends[1]:.3g} {unit}"
            rows.append(Row(f"growth with {size}", title, each["slopes"][name], detail=detail))
    ratios = [point["estimate_over_measured"] for each in result["growth"].values() for point in each["points"]]
    for title, ratio in (("least", min(ratios)), ("most", max(ratios))):
        rows.append(Row("`prl estimate`", f"estimated / measured memory, {title} of all points", ratio, 1.15, 0.85))
    return rows


def _start_up(result: Mapping[str, Any]) -> list[Row]:
    detail = f"{result['cpu_seconds']:.3g} s of the processor"
    return [Row("`prl quickstart`", "seconds to the first optimizer step", result["seconds"], 10.0, detail=detail)]


PARTS = {
    "start_up": _start_up,
    "sampling": _sampling,
    "shared_update": _shared_update,
    "score_once": _score_once,
    "pairs": _pairs,
    "dpo": _dpo,
    "judge": _judge,
    "growth": _growth,
}


def markdown(rows: list[Row]) -> list[str]:
    """Write rows as lines of a Markdown table."""
    lines = ["| work | figure | found | target | met | of |", "|---|---|---|---|---|---|"]
    for row in rows:
        found = f"{row.found:.2f}"
        lines.append(f"| {row.work} | {row.figure} | {found} | {row.target} | {row.met} | {row.detail} |")
    return lines
