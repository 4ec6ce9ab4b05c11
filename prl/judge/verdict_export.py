"""Verdicts of a folder as preference pairs: what a judge has said, for reward models to learn from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prl.judge.store import read_shard, shards_in

COLUMNS = ("prompt", "chosen", "rejected", "preference", "source")
"""Columns of an exported row."""


class StoredVerdicts:
    """All readings of a folder, by judge.

    Args:
        folder: folder of verdicts.

    Raises:
        ValueError: for a folder without verdicts, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, dict[str, Any]] = {}
        """Description of each judge, by its id."""
        self.margins: dict[str, dict[tuple[str, str, str], float]] = {}
        """Margins of each judge by prompt (JSON), first and second response; of equal readings the first."""
        shards = shards_in(folder)
        if not shards:
            raise ValueError(
                f"{folder} holds no verdicts; give the folder of a StoredJudge, or of `prl judge --verdict_store`"
            )
        for path in shards:
            for line in read_shard(path):
                known = self.margins.setdefault(line.judge, {})
                if line.about is not None:
                    self.about[line.judge] = line.about
                for prompt, first, second, margin in line.readings:
                    known.setdefault((json.dumps(prompt), first, second), margin)

    def judge(self, name: str | None) -> str:
        """Return the id of the judge that is meant: the only one when `name` is None.

        Raises:
            ValueError: naming the judges, when it is not clear or not there.
        """
        if name is None and len(self.margins) == 1:
            return next(iter(self.margins))
        if name not in self.margins:
            said = "holds several judges" if name is None else f"has no judge {name}"
            raise ValueError(f"the folder {said}: choose with --judge_id one of {', '.join(sorted(self.margins))}")
        return name

    def pairs(self, judge: str) -> Iterator[tuple[str, str, str, float, float]]:
        """Yield (prompt, a, b, z(a, b), z(b, a)) of each pair of different responses that was read in both orders."""
        margins = self.margins[judge]
        for (prompt, a, b), margin in margins.items():
            if a < b and (prompt, b, a) in margins:
                yield prompt, a, b, margin, margins[prompt, b, a]

    def num_one_order(self, judge: str) -> int:
        """Count the pairs of different responses that were read in one order alone."""
        margins = self.margins[judge]
        return sum(a != b and (prompt, b, a) not in margins for prompt, a, b in margins)

    def rows(self, judge: str) -> Iterator[dict[str, Any]]:
        """Yield the pairs as rows of preferences, with the debiased win probability of `chosen` as `preference`."""
        import torch

        from prl.verdict import Verdict

        found = list(self.pairs(judge))
        columns = [torch.tensor([pair[at] for pair in found], dtype=torch.float32) for at in (3, 4)]
        source = f"{self.about.get(judge, {}).get('kind', 'judge')}-{judge}"
        verdict = Verdict(*columns)
        turned = verdict.win_logit < 0
        probabilities = verdict.swapped(turned).win_prob
        for (prompt, a, b, _, _), turn, p in zip(found, turned.tolist(), probabilities.tolist(), strict=True):
            chosen, rejected = (b, a) if turn else (a, b)
            yield dict(zip(COLUMNS, (json.loads(prompt), chosen, rejected, p, source), strict=True))
