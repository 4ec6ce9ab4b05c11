"""Print the result of `prl arena`: the scale as a table, and its contradictions in words."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 120
"""Characters of a line in a file or pipe."""
STOPPED = {
    "budget": "the budget is spent",
    "width": "all intervals are as narrow as asked for",
    "all comparisons made": "every pair has met on every prompt",
}


def show(report: dict[str, Any]) -> None:
    """Print the players from best to worst, and what contradicts one scale."""
    counted = "win probabilities" if report["outcome"] == "probability" else "wins, ties half"
    title = f"{report['comparisons']} comparisons in both orders on {report['prompts']} prompts, {counted}"
    table = Table(title=title, title_justify="left")
    for column in ("player", "score", "95 % by prompt", "by player", "Elo", "equal lengths", "W/T/L", "chars"):
        table.add_column(column, justify="left" if column == "player" else "right", no_wrap=True)
    for player in report["players"]:
        fair = player["at_equal_lengths"]
        table.add_row(
            player["name"],
            f"{player['score']:+.2f}",
            _interval(player["by_prompt"]),
            _interval(player["by_player"]),
            f"{player['elo']:.0f}",
            f"{fair['score']:+.2f}{'*' if fair['extrapolated'] else ''}",
            f"{player['wins']}/{player['ties']}/{player['losses']}",
            _or_dash(player["mean_length"], ".0f"),
        )
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    for line in lines(report):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def lines(report: dict[str, Any]) -> list[str]:
    """Say in words what the table does not: why it ended, who is not told apart, circles, and what is uncertain."""
    found = [f"ended: {STOPPED[report['stopped']]}"]
    unsure = [each for each in report["neighbours"] if each["low"] is None or each["low"] <= 0]
    close = [f"{each['above']} and {each['below']}" for each in unsure]
    found += [f"not told apart (95 %): {', '.join(close)}"] * bool(close)
    bounds = [player["name"] for player in report["players"] if None in player["by_prompt"].values()]
    if bounds:
        found.append(
            f"no bound: {', '.join(bounds)}; a group of players won everything against the others, so its distance is "
            f"set by {report['prior_ties']:.0f} tie that each player is taken to have made; compare more, or count "
            "probabilities"
        )
    if any(player["at_equal_lengths"]["extrapolated"] for player in report["players"]):
        found.append("* extrapolated: all responses of the player are longer than those they met, or all shorter")
    for each in report["against_the_scale"]:
        sure = "" if each["sure"] else ", not for sure"
        found.append(f"against the scale{sure}: {_rate(each)}")
    for each in report["circles"]:
        sure = "" if each["sure"] else ", not for sure"
        found.append(f"circle{sure}: {'; '.join(_rate(step) for step in each['steps'])}")
    unfinished = {name: count for name, count in report.get("unfinished_responses", {}).items() if count}
    if unfinished:
        counts = ", ".join(f"{name} {count}" for name, count in unfinished.items())
        found.append(f"responses that hit --max_new_tokens, judged as they are: {counts}")
    return found


def _rate(each: dict[str, Any]) -> str:
    return f"{each['winner']} beats {each['loser']} {each['rate']:.2f} ({each['low']:.2f} to {each['high']:.2f})"


def _interval(ends: dict[str, Any] | None) -> str:
    if ends is None:
        return "-"
    low, high = ("no bound" if end is None else f"{end:+.2f}" for end in (ends["low"], ends["high"]))
    return f"{low} to {high}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
