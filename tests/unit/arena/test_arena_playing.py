"""Arenas with planted judges: what is compared, when it ends, and that a killed one ends as an uninterrupted one."""

import json
import math
from pathlib import Path

import pytest
import torch

from prl.arena import Arena, ArenaError
from prl.arena.record import COMPARISONS
from prl.judge.adaptive import AdaptiveOrder
from prl.judge.base import Comparison
from tests.helpers.tiny import LengthJudge, PlantedJudge

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(30)]
RESPONSES = {
    name: ["x" * (length + (7 * number + length) % 5) for number in range(30)]
    for name, length in {"short": 10, "middle": 12, "long": 13, "same": 13}.items()
}


class NoisyJudge(PlantedJudge):
    """Likes length, with noise that depends on what is read together, as rounding does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        self.calls.append(len(comparisons))
        found = torch.tensor([0.3 * (len(one) - len(two)) for _, one, two in comparisons])
        return found + 1e-6 * len(comparisons)


def arena(folder: Path, by: PlantedJudge | None = None, **settings) -> Arena:
    by = by or NoisyJudge()
    settings = {"judge": "its hash", "block": 8, "responses": RESPONSES, **settings}
    return Arena(PROMPTS, settings.pop("responses"), by.compare, folder=folder, **settings)


def test_the_scale_is_in_the_order_of_what_the_judge_likes(tmp_path: Path) -> None:
    judge = NoisyJudge()
    one = arena(tmp_path, judge)
    assert one.play(60) == "budget"
    report = one.report()
    assert [player["name"] for player in report["players"]][-2:] == ["middle", "short"]
    assert report["comparisons"] == 60
    assert sum(judge.calls) <= 120  # both orders, and equal ones read once
    rows = [json.loads(line) for line in (tmp_path / COMPARISONS).read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == 60
    for row in rows:
        lengths = [len(RESPONSES[row[name]][row["prompt"]]) for name in ("a", "b")]
        assert row["margin_ab"] == pytest.approx(0.3 * (lengths[0] - lengths[1]), abs=1e-3)
        assert row["margin_ba"] == pytest.approx(0.3 * (lengths[1] - lengths[0]), abs=1e-3)


@pytest.mark.parametrize("killed_at", range(7))
def test_a_killed_arena_ends_as_an_uninterrupted_one(tmp_path: Path, killed_at, monkeypatch) -> None:
    whole = arena(tmp_path / "whole")
    whole.play(44)
    judge = NoisyJudge()
    killed = arena(tmp_path / "killed", judge)
    monkeypatch.setattr(
        judge, "margins", lambda rows: NoisyJudge.margins(judge, rows) if len(judge.calls) < killed_at else 1 / 0
    )
    with pytest.raises(ZeroDivisionError) if killed_at < 6 else monkeypatch.context():
        killed.play(44)
    file = tmp_path / "killed" / COMPARISONS
    if file.exists():
        text = file.read_text()
        file.write_text(text[: len(text) - 90 * killed_at])  # and the last block was not written whole
    again = arena(tmp_path / "killed")
    again.play(44)
    assert file.read_bytes() == (tmp_path / "whole" / COMPARISONS).read_bytes()
    assert again.report() == whole.report()


@pytest.mark.parametrize("smaller", [21, 37, 39, 46])
def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path, smaller) -> None:
    arena(tmp_path / "one").play(50)
    arena(tmp_path / "two").play(smaller)
    judge = NoisyJudge()
    arena(tmp_path / "two", judge).play(50)
    assert sum(judge.calls) <= 2 * (50 - smaller)
    games = [
        [(row["prompt"], row["a"], row["b"]) for row in map(json.loads, (tmp_path / name / COMPARISONS).open())]
        for name in ("one", "two")
    ]
    assert games[0] == games[1]
    done = NoisyJudge()
    assert arena(tmp_path / "two", done).play(50) == "budget"
    assert done.calls == []


def test_it_ends_at_the_width_or_when_all_is_played(tmp_path: Path) -> None:
    narrow = arena(tmp_path / "narrow")
    assert narrow.play(1000, width=0.6) == "width"
    players = narrow.report()["players"]
    widths = [player["by_prompt"]["high"] - player["by_prompt"]["low"] for player in players]
    assert max(widths) <= 0.6
    assert len(narrow.played) % 8 == 0
    assert arena(tmp_path / "narrow").play(1000, width=0.6) == "width"
    few = arena(tmp_path / "few", responses={"short": RESPONSES["short"], "long": RESPONSES["long"]})
    assert few.play(1000) == "all comparisons made"
    assert len(few.played) == 30


class FailingJudge(NoisyJudge):
    """The first of the comparisons that it reads together has a margin that is none."""

    def __init__(self, margin: float, share: float = 0.0) -> None:
        super().__init__()
        self.margin, self.share = margin, share

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        found = super().margins(comparisons)
        found[: max(1, int(self.share * len(found)))] = self.margin
        return found


def test_it_ends_as_soon_as_the_intervals_are_narrow(tmp_path: Path) -> None:
    """Probabilities near 1/2 vary far less than the wins and losses of which the Fisher information speaks."""
    even = arena(tmp_path, LengthJudge(scale=0.01))
    assert even.play(1000, width=0.05) == "width"
    assert len(even.played) == 24  # the first block behind the sweep


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf])
def test_failed_comparisons_are_kept_and_count_nowhere(tmp_path: Path, margin) -> None:
    failing = arena(tmp_path, FailingJudge(margin))
    failing.play(40)
    report = failing.report()
    assert report["failed"] == 5
    assert report["comparisons"] == 35
    assert arena(tmp_path).report() == report


def test_an_arena_in_which_all_failed_has_no_width(tmp_path: Path) -> None:
    failing = arena(tmp_path, FailingJudge(math.nan, share=1))
    assert failing.play(40, width=1.0) == "budget"
    with pytest.raises(ValueError, match="no comparison; every one failed"):
        failing.report()


def test_verdicts_of_one_order_count(tmp_path: Path) -> None:
    """The planted judge has no position bias, so its one order says what both say."""
    judge = NoisyJudge()
    once, both = arena(tmp_path / "once", AdaptiveOrder(judge, threshold=0.0)), arena(tmp_path / "both")
    for each in (once, both):
        each.play(40)
    rows = [json.loads(line) for line in (tmp_path / "once" / COMPARISONS).open()]
    assert sum(None in (row["margin_ab"], row["margin_ba"]) for row in rows) > 25
    assert [row["logit"] for row in rows] == pytest.approx([each.logit for each in both.played], abs=1e-3)
    assert once.report()["failed"] == 0
    assert arena(tmp_path / "once").report() == once.report()


def test_another_judge_or_other_responses_are_refused(tmp_path: Path) -> None:
    arena(tmp_path).play(20)
    with pytest.raises(ArenaError, match="line 1 compares other responses of .* or by another judge"):
        arena(tmp_path, LengthJudge(), judge="another hash")
    others = {**RESPONSES, "long": [text + "!" for text in RESPONSES["long"]]}
    with pytest.raises(ArenaError, match="compares other responses of"):
        arena(tmp_path, responses=others)
    with pytest.raises(ArenaError, match="'long', which is no player now|'same', which is no player now"):
        arena(tmp_path, responses={name: RESPONSES[name] for name in ("short", "middle")})
    with pytest.raises(ArenaError, match="which stands before it now; give the players in the same order"):
        arena(tmp_path, responses=dict(reversed(RESPONSES.items())))
    with pytest.raises(ArenaError, match=r"is a comparison on prompt \d+; expected 0 to 2"):
        Arena(
            PROMPTS[:3],
            {name: each[:3] for name, each in RESPONSES.items()},
            lambda *_: 1 / 0,
            judge="",
            folder=tmp_path,
        )
    with pytest.raises(ArenaError, match="do not plan"):
        arena(tmp_path, seed=5).play(30)
    with pytest.raises(ArenaError, match="1 players; expected at least two"):
        arena(tmp_path / "new", responses={"short": RESPONSES["short"]})
    with pytest.raises(ArenaError, match="long has 29 responses to 30 prompts"):
        arena(tmp_path / "new", responses={**RESPONSES, "long": RESPONSES["long"][1:]})


@pytest.mark.parametrize(
    ("line", "told"), [('{"key": 1}', "expected the columns key"), ("nonsense", "it is no JSON"), ("[]", "it is list")]
)
def test_damaged_lines_are_named(tmp_path: Path, line, told) -> None:
    arena(tmp_path).play(8)
    file = tmp_path / COMPARISONS
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ArenaError, match=f"line 9.*{told}"):
        arena(tmp_path)
