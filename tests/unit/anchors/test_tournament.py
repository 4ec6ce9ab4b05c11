import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.anchors.tournament import knockout
from prl.verdict import Verdict
from tests.helpers.tiny import LengthJudge

TURN = ({"role": "user", "content": "x"},)


class Counting:
    """Longer is better; counts what it is asked."""

    def __init__(self) -> None:
        self.calls, self.games = 0, 0

    def __call__(self, prompts, a, b) -> Verdict:
        self.calls += 1
        self.games += len(a)
        return LengthJudge().compare(prompts, a, b)


@given(st.lists(st.lists(st.text("ab", max_size=6), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(0, 9))
def test_under_a_consistent_judge_the_best_wins_in_one_game_less_than_there_are_texts(candidates, seed) -> None:
    compare = Counting()
    champions = knockout([TURN] * len(candidates), candidates, compare, seed=seed)
    for champion, texts in zip(champions, candidates, strict=True):
        assert champion.text in texts
        assert len(champion.text) == max(map(len, texts))
        assert champion.num_comparisons == len(set(texts)) - 1
    assert compare.games == sum(len(set(texts)) - 1 for texts in candidates)
    most = max(len(set(texts)) for texts in candidates)
    assert compare.calls == (most - 1).bit_length()  # rounds of all prompts together


def test_the_probability_is_that_of_the_final() -> None:
    (champion,) = knockout([TURN], [["aaa", "a"]], LengthJudge().compare)
    assert champion.win_prob == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    (alone,) = knockout([TURN], [["a", "a"]], LengthJudge().compare)
    assert (alone.win_prob, alone.num_comparisons) == (0.5, 0)


def test_the_draw_is_that_of_the_seed() -> None:
    """Without an opinion the winner is whom the draw favours."""

    def tie(prompts, a, b) -> Verdict:
        return Verdict(torch.zeros(len(a)), torch.zeros(len(a)))

    texts = [chr(97 + i) for i in range(16)]
    winners = [knockout([TURN], [texts], tie, seed=seed)[0].text for seed in range(20)]
    assert winners == [knockout([TURN], [texts], tie, seed=seed)[0].text for seed in range(20)]
    assert len(set(winners)) > 5


def test_a_prompt_without_candidates_is_named() -> None:
    with pytest.raises(ValueError, match="prompt 2 has no candidates"):
        knockout([TURN, TURN], [["a"], []], LengthJudge().compare)
