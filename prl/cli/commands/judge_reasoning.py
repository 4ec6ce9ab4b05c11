"""Thoughts of `prl judge`: the option, and what the report says of the tokens that were spent."""

import argparse
import json
from typing import Any

from prl.config import Reasoning


def add_reasoning_option(parser: argparse.ArgumentParser) -> None:
    """Add --reasoning."""
    parser.add_argument(
        "--reasoning",
        type=reasoning,
        help='have a generative judge think before each verdict: its settings as JSON, such as \'{"max_tokens": 128, '
        '"samples": 4}\' (docs/reasoning.md)',
    )


def reasoning(text: str) -> Reasoning:
    """Read settings of thoughts from JSON. Raises ArgumentTypeError."""
    try:
        return Reasoning(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object with settings of thoughts: {error}") from None


def spent(reasons: dict[str, Any] | None) -> list[str]:
    """Format what a judge that reasons reaches with fewer, shorter and longer thoughts; nothing without any."""
    if reasons is None:
        return []
    tokens = reasons["tokens"]
    interval = f"{tokens['low']:.1f} to {tokens['high']:.1f}   of {tokens['num']}"
    lines = ["", f"{'tokens of thoughts, a pair':<36}{tokens['mean']:8.1f}   {interval}"]
    lines += [f"{'thoughts closed at their limit':<36}{reasons['unfinished']:8.3f}", ""]
    titles = f"{'tokens':>8} {'accuracy':>9} {'95 % interval':>16} {'nll':>7} {'ece':>7}"
    lines.append(f"{'by thoughts of a reading':<36}{titles}")
    lines += [_spent_row(name, row) for name, row in reasons["samples"].items()]
    lines.append("by mean tokens of a thought")
    return lines + [_spent_row(name, row) for name, row in reasons["thought_tokens"].items()]


def _spent_row(name: str, row: dict[str, Any]) -> str:
    accuracy, none = row["accuracy"], "-"
    shown = "" if accuracy is None else f"{accuracy['low']:.3f} to {accuracy['high']:.3f}"
    mean = none if accuracy is None else f"{accuracy['mean']:.3f}"
    ece = none if row["ece"] is None else f"{row['ece']:.3f}"
    return f"  {name:<34}{row['tokens']['mean']:8.1f} {mean:>9} {shown:>16} {row['nll']['mean']:7.3f} {ece:>7}"
