"""An arena: plan comparisons, have the judge make them, write them down, and fit the scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prl.arena.record import COMPARISONS, ArenaError, Played, Record, content_key, played_games
from prl.data.rows.records import prompt_key
from prl.evaluation.arena.bradley_terry import centred, fit_bradley_terry, robust_covariance
from prl.evaluation.arena.games import Games, Outcome, games_of, pairs_of, sums_by_prompt
from prl.evaluation.arena.intervals import NORMAL, scale_of
from prl.evaluation.arena.pairing import Game, Pairing
from prl.evaluation.arena.report import arena_report
from prl.rewards.base import Compare
from prl.types import Conversation

BUDGET, WIDTH, EXHAUSTED = "budget", "width", "all comparisons made"
"""Why an arena ended."""


class Arena:
    """Players, each with a response to every prompt, and the comparisons between them that are kept in a folder.

    Args:
        prompts: P prompts.
        responses: name of each player -> its P responses.
        compare: judges pairs in both orders; `PairwiseJudge.compare` of any judge.
        judge: hash of all that decides a margin, so that a folder holds the verdicts of one judge.
        folder: gets comparisons.jsonl; an arena continues with the comparisons that it finds there.
        outcome: what a comparison counts on the scale: the judge's win probability, or wins with ties as half.
        adaptive: choose comparisons by what the scale learns; otherwise all pairs equally often.
        block: comparisons between two fits of the scale, and judged together.
        seed: of the order in which equally good comparisons are taken.
        newest: the last player joins the others: its pairs alone are played, and budgets count its comparisons.
        quiet: show no progress.

    Raises:
        ArenaError: for fewer than two players, unequally many responses, or a folder of other comparisons.
    """

    def __init__(
        self,
        prompts: Sequence[Conversation],
        responses: Mapping[str, Sequence[str]],
        compare: Compare,
        *,
        judge: str,
        folder: str | Path,
        outcome: Outcome = "probability",
        adaptive: bool = True,
        block: int = 32,
        seed: int = 0,
        newest: bool = False,
        quiet: bool = False,
    ) -> None:
        if len(responses) < 2:
            raise ArenaError(f"the arena has {len(responses)} players; expected at least two")
        for name, texts in responses.items():
            if len(texts) != len(prompts):
                raise ArenaError(f"{name} has {len(texts)} responses to {len(prompts)} prompts; expected as many")
        self.prompts, self.names, self.responses = list(prompts), list(responses), list(responses.values())
        self.compare, self.outcome, self.adaptive, self.block, self.seed = compare, outcome, adaptive, block, seed
        self._keys = [prompt_key(prompt) for prompt in self.prompts]
        self._group = {key: number for number, key in enumerate(dict.fromkeys(self._keys))}
        self.record = Record(
            Path(folder) / COMPARISONS,
            self.names,
            len(self.prompts),
            lambda game: content_key(judge, self._keys[game.prompt], *self._texts(game)),
        )
        self.played = self.record.read()
        self._of = len(self.names) - 1 if newest else None
        self._quiet = quiet
        self._before = sum(self._of not in each.game[1:] for each in self.played) if newest else 0

    def _texts(self, game: Game) -> tuple[str, str]:
        return self.responses[game.first][game.prompt], self.responses[game.second][game.prompt]

    def games(self, number: int | None = None) -> Games:
        """Return the first comparisons that were made, or all of them, as arrays."""
        rows = [
            (each.game.first, each.game.second, self._group[self._keys[each.game.prompt]], each.logit)
            for each in self.played[:number]
        ]
        return games_of(len(self.names), rows)

    def play(self, budget: int, width: float | None = None) -> str:
        """Make comparisons until a budget is spent or every interval is narrow, and return which of them it was.

        Args:
            budget: comparisons in both orders, those that the folder held already included.
            width: of the widest 95 % interval of a score over prompts, log-odds; None plays until the budget ends.

        Raises:
            ArenaError: when the comparisons of the folder are not those that these settings plan.
        """
        budget += self._before
        start = len(self.played) - (len(self.played) - self._before) % self.block
        pairing = Pairing(len(self.names), len(self.prompts), seed=self.seed, adaptive=self.adaptive, of=self._of)
        pairing.add(each.game for each in self.played[:start])
        made = {"total": budget, "initial": len(self.played)}
        progress = tqdm(desc="arena", unit="comparison", delay=1, disable=self._quiet, **made)
        while True:
            if len(self.played) == start and not pairing.sweeping and self._is_narrow(width):
                return WIDTH
            if len(self.played) >= budget:
                return BUDGET
            planned = pairing.plan(self._scores(start), self.block)
            done = [each.game for each in self.played[start:]]
            if done != planned[: len(done)]:
                raise ArenaError(
                    f"{self.record.path} holds comparisons that these settings do not plan; give the settings with "
                    "which it was begun, or choose another --out"
                )
            todo = planned[len(done) :][: budget - len(self.played)]
            if not todo:
                return EXHAUSTED
            found = self._judged(todo)
            self.record.add(len(self.played), found)
            self.played += found
            progress.update(len(found))
            if len(self.played) - start < self.block:
                return EXHAUSTED if len(self.played) - start == len(planned) else BUDGET
            start += self.block

    def _judged(self, games: Sequence[Game]) -> list[Played]:
        first, second = zip(*(self._texts(game) for game in games), strict=True)
        verdict = self.compare([self.prompts[game.prompt] for game in games], list(first), list(second))
        return played_games(games, verdict)

    def _scores(self, number: int) -> torch.Tensor:
        return _fit(self.games(number), self.outcome)

    def _is_narrow(self, width: float | None) -> bool:
        games = self.games()
        if width is None or not len(games):
            return False
        sums = sums_by_prompt(games, self.outcome)
        found = centred(robust_covariance(_fit(games, self.outcome), *pairs_of(len(self.names)), *sums))
        # The bootstrap is dear, and far from the end its first-order approximation tells that it is not reached.
        if 2 * NORMAL * float(found.diagonal().max().sqrt()) > 1.5 * width:
            return False
        return scale_of(games, self.outcome).widest <= width

    def report(self) -> dict[str, Any]:
        """Report on the comparisons that were made; see docs/arena.md.

        Raises:
            ValueError: when every comparison failed.
        """
        known = [each for each in self.played if each.logit == each.logit]
        lengths = [[len(text) for text in self._texts(each.game)] for each in known]
        columns = torch.tensor(lengths, dtype=torch.double).reshape(-1, 2)
        found = arena_report(self.names, self.games(), (columns[:, 0], columns[:, 1]), self.outcome)
        return {**found, "failed": len(self.played) - len(known)}


def _fit(games: Games, outcome: Outcome) -> torch.Tensor:
    if not len(games):
        return torch.zeros(games.num_players, dtype=torch.float64)
    points, counts = (each.sum(0) for each in sums_by_prompt(games, outcome))
    return fit_bradley_terry(*pairs_of(games.num_players), points[None], counts[None], games.num_players)[0][0]
