"""`prl frontier`: win rate against KL of each run, and the checkpoint to ship."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prl.checkpoints.files import batches_of, valid_checkpoints
from prl.evaluation.policy.frontier import (
    EXTRAPOLATED,
    MEASURES,
    Point,
    best_checkpoint,
    beyond_equal_lengths,
    common_measure,
    knee,
    run_points,
)
from prl.evaluation.policy.validation_log import VALIDATIONS, ValidationLog
from prl.system.outputs import check_file, is_own_picture, json_with, save_picture, write_text


def main(args: list[str]) -> None:
    """Read the validations of the runs, print a table, and write the picture and its numbers."""
    parser = argparse.ArgumentParser("prl frontier", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folders of pairwise PPO runs")
    parser.add_argument("--measure", choices=tuple(MEASURES), help="win rate to go by; the best that all runs have")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("frontier"),
        help="OUTPUT.png and OUTPUT.json are written; only earlier ones of this command are replaced",
    )
    options = parser.parse_args(args)
    picture, numbers = (Path(f"{options.output}.{ending}") for ending in ("png", "json"))
    read = [run / VALIDATIONS for run in options.runs]
    check_file(picture, "--output", is_own_picture, read)
    check_file(numbers, "--output", json_with("measure", "runs", "ship"), read)
    lines = {str(run): validations(run) for run in options.runs}
    report = frontier(lines, options.measure)
    runs = {name: run_points(each, report["measure"]) for name, each in lines.items()}
    from prl.evaluation.policy.frontier_figure import draw_frontier

    save_picture(draw_frontier(runs, report["measure"]), picture)
    write_text(numbers, json.dumps(report, indent=2) + "\n")
    show(report)
    print(f"wrote {picture} and {numbers}")


def validations(run: Path) -> list[dict[str, Any]]:
    """Read the validations of a run, each with whether its rates at equal lengths are extrapolations.

    Raises:
        ValueError: when it has none.
    """
    log = ValidationLog(run)
    # Runs of earlier releases did not write it.
    lines = [{EXTRAPOLATED: beyond_equal_lengths(log.rows(line["batch"])), **line} for line in log.read()]
    if not lines:
        raise ValueError(
            f"{run / VALIDATIONS} is missing or empty; a run of PairwisePPOModule writes it at each validation: give "
            "its run folder, and set trainer.val_check_interval so that it validates"
        )
    return lines


def frontier(lines: dict[str, list[dict[str, Any]]], measure: str | None = None) -> dict[str, Any]:
    """Describe points and knee of each run, and the best checkpoint, as a JSON object.

    Args:
        lines: run folder -> its validations.
        measure: the win rate to go by; the most trustworthy one that all validations have when None.

    Returns:
        measure, runs, and what to ship: null where every rate is an extrapolation.

    Raises:
        ValueError: when the runs share no win rate, or validations lack the one that was asked for.
    """
    every = [line for each in lines.values() for line in each]
    name = measure or common_measure(every)
    runs = {run: run_points(each, name) for run, each in lines.items()}
    for run, points in runs.items():
        if not points:
            raise ValueError(f"{run} has no {name}; choose another --measure" + _heldout_hint(name))
    found = {
        run: {
            "points": [asdict(point) for point in points],
            "knee": bend.batch if (bend := knee(points)) else None,
            "without_numbers": [line["batch"] for line in lines[run] if line["batch"] not in {p.batch for p in points}],
        }
        for run, points in runs.items()
    }
    ship = None
    if any(not point.extrapolated for points in runs.values() for point in points):
        run, best = best_checkpoint(runs)
        ship = {"run": run, **asdict(best), **checkpoint_for(Path(run), best)}
    return {"measure": name, "runs": found, "ship": ship}


def _heldout_hint(measure: str) -> str:
    return ", or validate with model.init_args.heldout_judge" if "heldout" in measure else ""


def checkpoint_for(run: Path, point: Point) -> dict[str, Any]:
    """Find the kept checkpoint of a validation, or the nearest one, with advice where they differ."""
    kept = kept_checkpoints(run)
    if point.batch in kept:
        return {"checkpoint": str(kept[point.batch]), "checkpoint_batch": point.batch, "advice": None}
    advice = (
        "to have it next time, let checkpoints come at validations (checkpoint.every_n_batches dividing "
        "trainer.val_check_interval), and raise checkpoint.keep"
    )
    if not kept:
        return {"checkpoint": None, "checkpoint_batch": None, "advice": f"{run} keeps no checkpoint; {advice}"}
    nearest = min(kept, key=lambda batch: (abs(batch - point.batch), batch))
    advice = f"the nearest kept checkpoint is {abs(nearest - point.batch)} batches away; {advice}"
    return {"checkpoint": str(kept[nearest]), "checkpoint_batch": nearest, "advice": advice}


def kept_checkpoints(run: Path) -> dict[int, Path]:
    """Map training batches to checkpoints, for all valid ones in the run folder."""
    folder = run / "checkpoints"
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        if not path.is_symlink() and batches_of(path) < 0 and (batch := _batches_in(path)) is not None:
            found[batch] = path
    return found | {batches_of(path): path for path in valid_checkpoints(folder)}


def _batches_in(path: Path) -> int | None:
    if path.suffix != ".ckpt" or not path.is_file():
        return None
    import torch

    try:
        checkpoint = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        return int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])
    except (RuntimeError, OSError, KeyError, TypeError):
        return None  # corrupt, or no checkpoint of a run


def show(report: dict[str, Any]) -> None:
    """Print the validations as a table, and the checkpoint to ship in words."""
    controlled = report["measure"].endswith("_lc")
    rates = ("equal lengths", "95 %", "own lengths") if controlled else ("win rate", "95 %")
    what = "win probability" if controlled else "win rate"
    table = Table(title=f"{what} against the anchors: {MEASURES[report['measure']]}", title_justify="left")
    for column in ("run", "batch", "sqrt KL", *rates, ""):
        table.add_column(column, justify="left" if column in ("run", "") else "right")
    ship = report["ship"]
    for run, found in report["runs"].items():
        for point in found["points"]:
            chosen = ship is not None and run == ship["run"] and point["batch"] == ship["batch"]
            marks = ["to ship"] * chosen + ["knee"] * (point["batch"] == found["knee"])
            marks += ["after the alarm"] * point["alarmed"] + ["extrapolated"] * point["extrapolated"]
            numbers = [f"{point['batch']}", f"{point['kl_sqrt']:.2f}", f"{point['rate']:.3f}"]
            numbers += [f"{point['low']:.3f} to {point['high']:.3f}"]
            if controlled:
                numbers += ["" if point["plain"] is None else f"{point['plain']:.3f}"]
            table.add_row(run, *numbers, ", ".join(marks), style="bold" if chosen else "")
    console = Console()
    console.print(table)
    for run, found in report["runs"].items():
        if found["without_numbers"]:
            console.print(f"{run}: no {report['measure']} at batches {found['without_numbers']}, left out")
    console.print(shipping(report), soft_wrap=True, highlight=False)


def shipping(report: dict[str, Any]) -> str:
    """Say which checkpoint to ship and by which rate, or why none."""
    every = [point for found in report["runs"].values() for point in found["points"]]
    extrapolated = sum(point["extrapolated"] for point in every)
    why = (
        f"at {extrapolated} of {len(every)} validations every response is shorter than its anchors, or every one is "
        "longer; the rate at equal lengths is then an extrapolation and ships nothing"
    )
    if (ship := report["ship"]) is None:
        plain = "" if "heldout" in report["measure"] else " To go by the win rate as counted: --measure win_rate"
        return f"ship: nothing, since {why}.{plain}"
    where = ship["checkpoint"] or "no checkpoint"
    controlled = report["measure"].endswith("_lc")
    rate = f"{'win probability at equal lengths' if controlled else 'win rate'} {ship['rate']:.3f}"
    rate += "" if ship["plain"] is None else f", at their own lengths {ship['plain']:.3f}"
    lines = [f"ship: {ship['run']}, batch {ship['batch']} ({rate}): {where}"]
    lines += [f"left out: {why}"] * bool(extrapolated)
    return "\n".join(lines + ([ship["advice"]] if ship["advice"] else []))
