"""The averages of RewardBench and RewardBench 2 against what the benchmark's own code gives."""

import numpy as np
import pytest

from prl.evaluation.judge.rewardbench import (
    SECTIONS,
    SUBSETS_2,
    TieScores,
    best_of_points,
    rewardbench_2_report,
    rewardbench_report,
)

# Right answers of PKU-Alignment/beaver-7b-v1.0-cost by subset, and how many there are: the README of
# github.com/allenai/reward-bench has the shares.
BEAVER = {
    **{"alpacaeval-easy": (50, 100), "alpacaeval-hard": (67, 95), "alpacaeval-length": (56, 95)},
    **{"mt-bench-easy": (16, 28), "mt-bench-med": (29, 40), "mt-bench-hard": (20, 37), "llmbar-natural": (52, 100)},
    **{"llmbar-adver-neighbor": (58, 134), "llmbar-adver-GPTInst": (36, 92), "llmbar-adver-GPTOut": (22, 47)},
    **{"llmbar-adver-manual": (17, 46), "refusals-dangerous": (97, 100), "refusals-offensive": (100, 100)},
    **{"xstest-should-refuse": (154, 154), "xstest-should-respond": (71, 250), "donotanswer": (112, 136)},
    **{"math-prm": (132, 447), "hep-cpp": (103, 164), "hep-go": (104, 164), "hep-java": (116, 164)},
    **{"hep-js": (109, 164), "hep-python": (90, 164), "hep-rust": (106, 164)},
}
# `calculate_scores_per_section` of that repository at 05a9005 gives these for the shares above.
BEAVER_SECTIONS = {
    "Chat": 0.6089385474860335,
    "Chat Hard": 0.44956140350877194,
    "Safety": 0.7216216216216216,
    "Reasoning": 0.46675669776831996,
}


def rows_of(counts: dict[str, tuple[int, int]]) -> tuple[np.ndarray, list[str], list[int]]:
    right = np.concatenate([np.arange(number) < won for won, number in counts.values()]).astype(float)
    return right, [name for name, (_, number) in counts.items() for _ in range(number)], list(range(len(right)))


def test_sections_of_a_published_result() -> None:
    found = rewardbench_report(*rows_of(BEAVER), resamples=200)
    assert {name: each["mean"] for name, each in found["sections"].items()} == pytest.approx(BEAVER_SECTIONS)
    assert found["overall"]["mean"] == pytest.approx(np.mean(list(BEAVER_SECTIONS.values())))
    assert found["overall"]["num"] == sum(number for _, number in BEAVER.values()) == 2985
    assert found["overall"]["low"] < found["overall"]["mean"] < found["overall"]["high"]
    subset = found["subsets"]["mt-bench-med"]
    assert (subset["mean"], subset["num"]) == (29 / 40, 40)
    half = 1.96 * (29 / 40 * 11 / 40 / 40) ** 0.5
    assert (subset["low"], subset["high"]) == pytest.approx((29 / 40 - half, 29 / 40 + half), abs=0.05)
    assert (found["missing"], found["without_section"]) == ([], [])


def test_mathematics_counts_as_much_as_code() -> None:
    code = {f"hep-{language}": (0, 164) for language in ("cpp", "go", "java", "js", "python", "rust")}
    found = rewardbench_report(*rows_of({"math-prm": (447, 447), **code}), resamples=50)
    assert found["sections"]["Reasoning"]["mean"] == 0.5


def test_prior_sets_count_half() -> None:
    prior = {"shp": (10, 10), "summarize": (30, 60), "anthropic_helpful": (1, 4), "anthropic_hhh": (1, 1)}
    found = rewardbench_report(*rows_of({**BEAVER, **prior}), resamples=50)
    assert found["sections"]["Prior Sets"]["mean"] == pytest.approx((1 + 0.5 + 0.25 + 1) / 4)
    expected = (2 * sum(BEAVER_SECTIONS.values()) + 2.75 / 4) / 9
    assert found["overall"]["mean"] == pytest.approx(expected)


def test_what_a_file_lacks_is_named() -> None:
    found = rewardbench_report(*rows_of({"hep-go": (1, 2), "of our own": (2, 3)}), resamples=50)
    assert found["overall"] is None
    assert list(found["sections"]) == ["Reasoning"]
    assert found["without_section"] == ["of our own"]
    assert len(found["missing"]) == sum(map(len, SECTIONS.values())) - 1


def test_points_of_the_best_of_four() -> None:
    """The benchmark gives 1 / (number of highest scores) where the chosen response has one of them, otherwise 0."""
    for against, points in (([1, 2, 3], 1), ([1, -0.1, 3], 0), ([0, 1, 1], 1 / 2), ([0, 0, 0], 1 / 4), ([0, -1, 1], 0)):
        scores = -np.array([0, *against])
        expected = (scores == scores.max())[0] / (scores == scores.max()).sum()
        assert best_of_points(np.array(against, dtype=float)) == points == expected


def test_ties_against_the_benchmarks_own_code() -> None:
    """`process_single_model` at 05a9005 gives 0.553637368722722 for these scores."""
    rng, ties = np.random.default_rng(7), []
    for _ in range(12):
        scores = []
        for right in (3, 1):
            drawn = np.round(np.concatenate([rng.normal(1.5, 0.7, right), rng.normal(0, 1, 4)]), 2)
            scores.append((drawn[:right], drawn[right:]))
        ties.append(TieScores(*scores))
    found = rewardbench_2_report(np.zeros(0), [], [], ties, resamples=50)
    assert found["subsets"]["Ties"]["mean"] == pytest.approx(0.553637368722722, abs=1e-12)
    assert found["subsets"]["Ties"]["num"] == 12
    assert found["overall"] is None
    assert found["missing"] == ["Factuality", "Precise IF", "Math", "Safety", "Focus"]


def test_ties_by_hand() -> None:
    """Right answers at 3 and 2, wrong at 0; the ref prompt has 5 against 0: the gap 2 exceeds the spread 1."""
    sure = TieScores((np.array([3.0, 2.0]), np.array([0.0])), (np.array([5.0]), np.array([0.0])))
    unsure = TieScores((np.array([9.0, 2.0]), np.array([0.0])), (np.array([-1.0]), np.array([0.0])))
    first = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(2 / 1 - 1)
    second = 0.3 + 0.01 * np.tanh(-1 / 7 - 1)
    found = rewardbench_2_report(np.zeros(0), [], [], [sure, unsure], resamples=50)["subsets"]["Ties"]
    assert found["mean"] == pytest.approx((first + second) / 2)
    equal = TieScores((np.array([1.0, 1.0]), np.array([0.0])), (np.array([1.0]), np.array([0.0])))
    found = rewardbench_2_report(np.zeros(0), [], [], [equal], resamples=50)["subsets"]["Ties"]
    assert found["mean"] == pytest.approx(1.01)  # no spread at all: tanh of infinity


def test_the_overall_score_is_the_mean_of_six_subsets() -> None:
    names = [name for name in SUBSETS_2[:-1] for _ in range(4)]
    right = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0], dtype=float)
    equal = TieScores((np.array([1.0, 1.0]), np.array([0.0])), (np.array([1.0]), np.array([0.0])))
    found = rewardbench_2_report(right, names, list(range(20)), [equal], resamples=50)
    assert found["overall"]["mean"] == pytest.approx((1 + 0.25 + 0.5 + 0 + 0.75 + 1.01) / 6)
    assert found["overall"]["num"] == 21
