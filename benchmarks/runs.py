"""Results of several runs: kept line by line, so that a stopped benchmark goes on; intervals are over seeds."""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 10: 2.262, 15: 2.145, 30: 2.045}
"""Two-sided 95 % quantile of Student's t for the mean of so many runs; between them the fewer count, which is wider."""


UNTIL = "<!-- until here -->"
"""Line of a page at which what a command wrote there ends."""


def between(page: str, begin: str, lines: list[str]) -> str:
    """Put lines into a page between a mark and the next line UNTIL; what is around them stays.

    Raises:
        ValueError: for a page without the two.
    """
    if page.count(begin) != 1 or UNTIL not in page[page.index(begin) :]:
        raise ValueError(f"the page needs one line {begin!r} and behind it a line {UNTIL!r}")
    end = page.index(UNTIL, page.index(begin))
    return f"{page[: page.index(begin)]}{begin}\n\n" + "\n".join(lines) + f"\n\n{page[end:]}"


def run_options(description: str | None, out: str, names: Iterable[str], seeds: int = 3) -> argparse.Namespace:
    """Read the options that benchmarks of several runs share; `wanted` lists the name and seed of each run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", choices=list(names), action="append", help="one variant; may be given several times")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="after --: settings of every run")
    options = parser.parse_args()
    options.overrides = [each for each in options.overrides if each != "--"]
    wanted = range(options.first_seed, options.first_seed + options.seeds)
    options.wanted = [(name, seed) for seed in wanted for name in options.only or names]
    return options


def missing_runs(
    results: Path, wanted: Iterable[tuple[str, int]], train: Callable[[str, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Make the runs that a results file does not have yet, and return the lines of all.

    Args:
        results: one JSON object a line, with `variant` and `seed`; written after each run.
        wanted: name and seed of each run.
        train: makes one.

    Returns:
        All lines of the file at the end, with those that another process wrote meanwhile.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    results.touch()
    done = {(row["variant"], row["seed"]) for row in _lines(results)}
    for name, seed in wanted:
        if (name, seed) not in done:
            row = {"variant": name, "seed": seed, **train(name, seed)}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    return _lines(results)


def _lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def show(result: dict[str, Any], path: Path | None) -> None:
    """Print a result as a JSON object, and write it where a path is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if path is not None:
        path.write_text(text, encoding="utf-8")


def make_missing(options: argparse.Namespace, train: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the runs of `run_options` by `train(name, seed, out, overrides)`, as `missing_runs` does."""
    out = options.out
    return missing_runs(
        out / "results.jsonl", options.wanted, lambda name, seed: train(name, seed, out, options.overrides)
    )


def interval(values: list[float], digits: int = 3) -> str:
    """Mean and half width of its 95 % interval over runs."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = T_95[max(runs for runs in T_95 if runs <= len(values))] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(rows: list[dict[str, Any]], title: str, columns: dict[str, tuple[str, int]]) -> str:
    """Variants down, figures across, as Markdown.

    Args:
        rows: lines of results.
        title: of the first column.
        columns: key of a line -> its title and its digits. A variant without the key has an empty cell.
    """
    by_name = defaultdict(list)
    for row in rows:
        by_name[row["variant"]].append(row)
    titles = [title, "runs", *(name for name, _ in columns.values())]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, runs in by_name.items():
        cells = [interval([run[key] for run in runs], n) if key in runs[0] else "" for key, (_, n) in columns.items()]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)
