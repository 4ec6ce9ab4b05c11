"""Comparisons of an arena as lines of a file, of which a killed command continues with whole blocks."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prl.evaluation.arena.pairing import Game
from prl.system.full_disk import naming_when_full
from prl.system.json_files import parse_object
from prl.system.outputs import write_text
from prl.verdict import Verdict

COMPARISONS = "comparisons.jsonl"
MARGINS = ("margin_ab", "margin_ba", "logit")
COLUMNS = ("key", "block", "of", "prompt", "a", "b", *MARGINS)


class ArenaError(ValueError):
    """A folder of an arena whose contents do not fit to what is asked of it."""


class Played(NamedTuple):
    """A comparison that was made, with its log-odds; no number is infinite."""

    game: Game
    margin_ab: float
    """Margin with the first player's response shown first; NaN where the judge failed or did not read this order."""
    margin_ba: float
    """Margin of the other order."""
    logit: float
    """Debiased log-odds that the first player's response is better (`Verdict.win_logit`); NaN where it failed."""


def played_games(games: Sequence[Game], verdict: Verdict) -> list[Played]:
    """Put comparisons and their verdicts together; what is no finite number counts as failed."""
    columns = (verdict.margin_ab, verdict.margin_ba, verdict.win_logit)
    rows = zip(*(column.double().nan_to_num(math.nan, math.nan, math.nan).tolist() for column in columns), strict=True)
    return [Played(game, *row) for game, row in zip(games, rows, strict=True)]


class Record:
    """The file comparisons.jsonl: one line for each comparison, written in blocks of those judged together.

    A judge's numbers depend on what it reads together, up to rounding. A block that a kill left incomplete is
    therefore dropped and judged again, and the file ends as that of an uninterrupted command.

    Args:
        path: of the file.
        names: of the players; lines name them.
        num_prompts: P; lines have the number of one.
        key: returns the hash of what is compared: prompt, both responses and judge.
    """

    def __init__(self, path: str | Path, names: Sequence[str], num_prompts: int, key: Callable[[Game], str]) -> None:
        self.path, self.names, self.num_prompts, self.key = Path(path), list(names), num_prompts, key

    def read(self) -> list[Played]:
        """Read the comparisons of whole blocks, and cut an incomplete last one off the file.

        Raises:
            ArenaError: for a line that was edited, or that is of another judge, prompt or response.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        raw = content.split(b"\n")
        lines = [self._parsed(number, line) for number, line in enumerate(raw[:-1], 1)]
        whole = len(lines)
        if lines:
            last = [line for line in lines if line["block"] == lines[-1]["block"]]
            whole -= len(last) if len(last) < lines[-1]["of"] else 0
        if whole < len(lines) or raw[-1]:
            write_text(self.path, "".join(line.decode() + "\n" for line in raw[:whole]))
        return [self._played(number, line) for number, line in enumerate(lines[:whole], 1)]

    def add(self, block: int, played: Sequence[Played]) -> None:
        """Append the lines of one block."""
        text = "".join(
            json.dumps(
                {
                    **{"key": self.key(each.game), "block": block, "of": len(played), "prompt": each.game.prompt},
                    **{"a": self.names[each.game.first], "b": self.names[each.game.second]},
                    **{name: _or_null(getattr(each, name)) for name in MARGINS},
                },
                ensure_ascii=False,
            )
            + "\n"
            for each in played
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming_when_full(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = parse_object(line)
        except ValueError as error:
            raise ArenaError(f"{self.path}, line {number}: {error}; take the line out") from None
        if found.keys() != set(COLUMNS) or not all(isinstance(found[name], int) for name in ("block", "of", "prompt")):
            raise ArenaError(
                f"{self.path}, line {number}: expected the columns {', '.join(COLUMNS)}, found "
                f"{line[:60].decode(errors='replace')!r}; choose another --out"
            )
        return found

    def _played(self, number: int, line: dict[str, Any]) -> Played:
        unknown = [line[name] for name in ("a", "b") if line[name] not in self.names]
        if unknown:
            raise ArenaError(
                f"{self.path}, line {number} is a comparison of {unknown[0]!r}, which is no player now; give the same "
                "players, or choose another --out"
            )
        game = Game(line["prompt"], self.names.index(line["a"]), self.names.index(line["b"]))
        if not 0 <= game.prompt < self.num_prompts:
            raise ArenaError(
                f"{self.path}, line {number} is a comparison on prompt {game.prompt}; expected 0 to "
                f"{self.num_prompts - 1}: give the same prompts, or choose another --out"
            )
        if game.first >= game.second:
            raise ArenaError(
                f"{self.path}, line {number} compares {line['a']} with {line['b']}, which stands before it now; give "
                "the players in the same order, or choose another --out"
            )
        if self.key(game) != line["key"]:
            raise ArenaError(
                f"{self.path}, line {number} compares other responses of {line['a']} and {line['b']}, or by another "
                "judge; give the same judge, prompts and responses, or choose another --out"
            )
        return Played(game, *(_or_nan(line[name]) for name in MARGINS))


def content_key(judge: str, prompt: str, a: str, b: str) -> str:
    """Hash what is compared.

    Args:
        judge: hash of all that decides a margin.
        prompt: hash of the prompt (`prompt_key`).
        a: response of the first player.
        b: response of the second.
    """
    return hashlib.sha256(json.dumps([judge, prompt, a, b]).encode()).hexdigest()[:32]


def _or_null(margin: float) -> float | None:
    return None if math.isnan(margin) else margin


def _or_nan(margin: float | None) -> float:
    return math.nan if margin is None else float(margin)
