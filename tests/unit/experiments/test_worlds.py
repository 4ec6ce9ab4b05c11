"""Laws of preferences that the studies draw labels from, and the rule by which a study says what it found."""

from itertools import islice, permutations
from random import Random

import pytest

from experiments.verdicts import paired_difference, verdict
from experiments.worlds import LOG_ODDS, comparisons, labelled_pairs, probability, true_pairs


@pytest.mark.parametrize("regime", LOG_ODDS)
def test_law_does_not_know_which_response_comes_first(regime) -> None:
    for prompt, first, second in islice(comparisons(Random(0), "train"), 300):
        both = [probability(regime, 0.1, prompt, *each) for each in ((first, second), (second, first))]
        assert sum(both) == pytest.approx(1)
        assert min(both) >= 0.1


@pytest.mark.parametrize(
    ("regime", "transitive"), [("scalar", True), ("scaled", True), ("paired", True), ("cyclic", False)]
)
def test_only_the_cyclic_law_has_circles(regime, transitive) -> None:
    prompt, texts = "reverse abc", ["cba", "cb", "ccba", "cbaa", "abc", "bca"]
    better = {pair: LOG_ODDS[regime](prompt, *pair) > 0 for pair in permutations(texts, 2)}
    circles = [each for each in permutations(texts, 3) if all(better[each[i], each[(i + 1) % 3]] for i in range(3))]
    assert (not circles) == transitive


@pytest.mark.parametrize(
    ("regime", "additive"), [("scalar", True), ("scaled", True), ("paired", False), ("cyclic", False)]
)
def test_a_reward_explains_two_laws(regime, additive) -> None:
    """Log-odds are differences of rewards exactly where m(u, v) + m(v, w) = m(u, w)."""
    odds, prompt = LOG_ODDS[regime], "reverse abc"
    gaps = [
        odds(prompt, u, v) + odds(prompt, v, w) - odds(prompt, u, w)
        for u, v, w in permutations(["cba", "cb", "ccba", "abc"], 3)
    ]
    assert (max(map(abs, gaps)) < 1e-9) == additive


def test_labels_are_as_often_wrong_as_the_law_says() -> None:
    rows = labelled_pairs("0", 4000, "cyclic", 0.1)
    expected = [
        max(probability("cyclic", 0.1, row["prompt"], *pair) for pair in permutations((row["chosen"], row["rejected"])))
        for row in rows
    ]
    right = [LOG_ODDS["cyclic"](row["prompt"], row["chosen"], row["rejected"]) > 0 for row in rows]
    decided = [(e, r) for e, r, row in zip(expected, right, rows, strict=True) if e > 0.5]
    mean = sum(r for _, r in decided) / len(decided)
    assert mean == pytest.approx(sum(e for e, _ in decided) / len(decided), abs=4 * 0.5 / len(decided) ** 0.5)


def test_tested_prompts_are_not_trained_on_and_unseen_tasks_are_unseen() -> None:
    trained = {row["prompt"] for row in labelled_pairs("0", 2000, "scalar", 0.0, ["add", "next"])}
    tested = true_pairs("test", 300, "scalar", 0.0, families=["sort"])
    assert {prompt.split()[0] for prompt in trained} == {"add", "next"}
    assert {row["prompt"].split()[0] for row in tested} == {"sort"}
    assert not trained & {row["prompt"] for row in true_pairs("test", 300, "scalar", 0.0)}
    assert min(row["preference"] for row in tested) > 0.5


def test_rule_of_a_study() -> None:
    one = [{"seed": seed, "nll": value} for seed, value in enumerate((0.30, 0.32, 0.31))]
    other = [{"seed": seed, "nll": value} for seed, value in enumerate((0.35, 0.36, 0.36))]
    mean, half = paired_difference(one, other, "nll")
    # Differences -0.05, -0.04, -0.05: mean -0.04667, standard deviation 0.0057735, t(2) = 4.303.
    assert (mean, half) == (pytest.approx(-0.046667, abs=1e-6), pytest.approx(4.303 * 0.0057735 / 3**0.5, abs=1e-5))
    assert verdict(mean, half, higher_is_better=False) == "supported"
    assert verdict(mean, half, higher_is_better=True) == "contradicted"
    assert verdict(0.01, 0.02, higher_is_better=True) == "open"
    with pytest.raises(ValueError, match="1 seeds in common"):
        paired_difference(one[:1], other, "nll")
