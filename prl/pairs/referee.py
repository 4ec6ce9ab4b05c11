"""Rows that ask a policy for a score of each of several ranked responses: what `prl referee` writes (2507.17515)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from prl.data.rows.records import PreferencePair, Record
from prl.data.rows.row_reader import RowReader
from prl.judge.referee_prompt import INSTRUCTION, SCALE, referee_prompt, shown_order, write_scores


@dataclass(frozen=True)
class Ranking(Record):
    """Responses to one prompt, ranked: a list of a preference row, or both responses of a pair."""

    columns: ClassVar = PreferencePair.columns
    shapes: ClassVar = PreferencePair.shapes

    responses: tuple[str, ...]
    gold: tuple[float, ...]
    """Score of each response, the higher the better."""

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the ranking from any shape of preference row. Raises RowError."""
        pairs = PreferencePair.from_row(row)  # checks the row
        if "completions" not in row:
            (pair,) = pairs
            return [cls(pair.prompt, (pair.chosen, pair.rejected), (pair.preference, 1 - pair.preference))]
        prompt, order = row.prompt(), row.label
        responses = row.responses("completions", prompt)
        numbers = row.numbers(order, order, len(responses))
        return [cls(prompt, responses, tuple(-number if order == "rank" else number for number in numbers))]


def referee_row(
    ranking: Ranking,
    instruction: str = INSTRUCTION,
    scale: tuple[float, float] = SCALE,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Write a row of prompts that asks for a score of each response; None where all responses are ranked alike.

    `gold_scores` are those of the responses in the order shown, `anchor` is what a perfect referee would answer.

    Args:
        ranking: the ranked responses.
        instruction: what the scores are to mean.
        scale: lowest and highest score.
        seed: of the order in which they are shown.
    """
    if len(set(ranking.gold)) < 2:
        return None
    order = shown_order(ranking.prompt, ranking.responses, seed)
    responses, gold = [ranking.responses[number] for number in order], [ranking.gold[number] for number in order]
    asked = referee_prompt(ranking.prompt, responses, instruction, scale)
    return {"prompt": asked[0]["content"], "anchor": write_scores(gold, scale), "gold_scores": gold}
