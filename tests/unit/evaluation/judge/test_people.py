"""The report of a judge held against people."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from prl.evaluation.judge import people
from prl.evaluation.judge.agreement import MISSING, cohen_kappa
from prl.evaluation.judge.people import FIRST, SECOND, TIE, Annotated, categories_of, majority, people_report

CATEGORIES = np.array([[2, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 2], [1, 1, 1], [0, 3, 0]])


def annotated(judge: np.ndarray, people: np.ndarray, longer: np.ndarray, *rest: list) -> Annotated:
    """Make the annotations of a table of [N, R] with MISSING; rest are the names, the prompts and the sources."""
    pair_of, annotator_of = (people != MISSING).nonzero()
    names, prompts, sources = rest
    return Annotated(judge, pair_of, annotator_of, people[pair_of, annotator_of], names, prompts, longer, sources)


def table(pairs: Annotated) -> np.ndarray:
    """Return the annotations as [N, R] with MISSING."""
    people = np.full((len(pairs.judge), len(pairs.annotators)), MISSING)
    people[pairs.pair_of, pairs.annotator_of] = pairs.said
    return people


def planted(
    number: int = 300, seed: int = 0, noise=(0.1, 0.2, 0.3), judge_noise: float = 0.2, missing: float = 0.3
) -> Annotated:
    """Plant a truth of three categories, annotators and a judge who say something else with their noise."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, number, p=(0.5, 0.4, 0.1))

    def said(share: float) -> np.ndarray:
        return np.where(rng.random(number) < share, rng.integers(0, 3, number), truth)

    people = np.stack([said(share) for share in noise], axis=1)
    people[rng.random(people.shape) < missing] = MISSING
    names, longer = [f"p{n}" for n in range(len(noise))], rng.integers(0, 3, number)
    prompts = (np.arange(number) // 2).tolist()
    return annotated(said(judge_noise), people, longer, names, prompts, ["even", "odd"] * (number // 2))


@pytest.fixture(scope="module")
def pairs() -> Annotated:
    return planted()


@pytest.fixture(scope="module")
def report(pairs: Annotated) -> dict:
    return people_report(pairs, resamples=100)


def test_categories() -> None:
    numbers = np.array([2.0, -2.0, 0.0, 0.5, -0.5, np.nan])
    assert categories_of(numbers).tolist() == [FIRST, SECOND, TIE, FIRST, SECOND, MISSING]
    assert categories_of(numbers, margin=0.5).tolist() == [FIRST, SECOND, TIE, TIE, TIE, MISSING]
    assert categories_of(np.array([0.7, 0.5, 0.2]), middle=0.5).tolist() == [FIRST, TIE, SECOND]


def test_a_majority_is_a_single_category() -> None:
    assert majority(CATEGORIES).tolist() == [FIRST, MISSING, MISSING, TIE, MISSING, SECOND]


def most_of(people: np.ndarray) -> np.ndarray:
    """Count the majority by hand."""
    found = []
    for said in people:
        counts = [int((said == c).sum()) for c in range(3)]
        best = [c for c in range(3) if counts[c] == max(counts)]
        found.append(best[0] if len(best) == 1 and max(counts) else MISSING)
    return np.array(found)


def test_judge_and_majority(pairs: Annotated, report: dict) -> None:
    most = most_of(table(pairs))
    known = most != MISSING
    assert report["num_without_majority"] == (~known).sum() > 0
    assert report["kappa"]["mean"] == pytest.approx(cohen_kappa(pairs.judge, most, 3))
    assert report["kappa"]["num"] == known.sum()
    assert report["kappa"]["low"] < report["kappa"]["mean"] < report["kappa"]["high"]
    assert report["observed"]["mean"] == pytest.approx((pairs.judge == most)[known].mean())
    decided = known & (most != TIE) & (pairs.judge != TIE)
    assert report["kappa_decided"]["num"] == decided.sum() < known.sum()
    assert report["observed_decided"]["mean"] == pytest.approx((pairs.judge == most)[decided].mean())
    assert report["base_rates"]["majority"]["tie"] == pytest.approx((most == TIE).sum() / known.sum())
    assert report["base_rates"]["judge"]["first"] == pytest.approx((pairs.judge == FIRST).mean())
    said = table(pairs)[table(pairs) != MISSING]
    assert report["base_rates"]["annotations"]["second"] == pytest.approx((said == SECOND).mean())
    assert report["num_annotations"] == len(said)


def test_baselines(pairs: Annotated, report: dict) -> None:
    most = most_of(table(pairs))
    shares = [(most[most != MISSING] == c).mean() for c in range(3)]
    assert report["baselines"]["constant"]["mean"] == pytest.approx(max(shares))
    assert report["baselines"]["longer"]["mean"] == pytest.approx((pairs.longer == most)[most != MISSING].mean())
    assert report["baselines"]["longer_kappa"]["mean"] == pytest.approx(cohen_kappa(pairs.longer, most, 3))


def test_each_annotator_and_the_others(pairs: Annotated, report: dict) -> None:
    for n, name in enumerate(pairs.annotators):
        others = most_of(np.delete(table(pairs), n, axis=1))
        found = report["annotators"][name]
        assert found["others_kappa"]["mean"] == pytest.approx(cohen_kappa(table(pairs)[:, n], others, 3))
        assert found["judge_kappa"]["mean"] == pytest.approx(cohen_kappa(pairs.judge, table(pairs)[:, n], 3))
    noisiest = [report["annotators"][name]["others_kappa"]["mean"] for name in pairs.annotators]
    assert noisiest == sorted(noisiest, reverse=True)


def test_the_judge_stands_in_for_each_annotator_on_the_same_pairs(pairs: Annotated, report: dict) -> None:
    people, said, judged, others = report["people"], [], [], []
    for n in range(table(pairs).shape[1]):
        target = most_of(np.delete(table(pairs), n, axis=1))
        rows = (table(pairs)[:, n] != MISSING) & (target != MISSING)
        said += table(pairs)[rows, n].tolist()
        judged += pairs.judge[rows].tolist()
        others += target[rows].tolist()
    one = cohen_kappa(np.array(said), np.array(others), 3)
    other = cohen_kappa(np.array(judged), np.array(others), 3)
    assert people["others_kappa"]["mean"] == pytest.approx(one)
    assert people["judge_others_kappa"]["mean"] == pytest.approx(other)
    assert people["judge_minus_people"]["mean"] == pytest.approx(other - one)
    # The difference is of one draw, so its interval is narrower than if the two were independent.
    widths = [people[name]["high"] - people[name]["low"] for name in ("judge_minus_people", "others_kappa")]
    assert widths[0] < 2 * widths[1]
    assert set(people["pairwise_kappa"]) == {"p0 | p1", "p0 | p2", "p1 | p2"}


def test_a_judge_as_good_as_a_person_is_not_told_apart() -> None:
    """Planted: the judge is one more annotator of the same noise, so the difference is 0 and its interval covers it."""
    found = [
        people_report(planted(100, seed, (0.3, 0.3, 0.3), 0.3, 0.0), resamples=100)["people"] for seed in range(40)
    ]
    differences = [each["judge_minus_people"] for each in found]
    # 95 % less what 50 prompts cost; the standard error of a share of 40 is 4 %.
    assert sum(each["low"] <= 0 <= each["high"] for each in differences) / 40 >= 0.8
    assert np.mean([each["mean"] for each in differences]) == pytest.approx(0, abs=0.045)  # three standard errors


def test_by_source(pairs: Annotated, report: dict) -> None:
    most, even = most_of(table(pairs)), np.array([each == "even" for each in pairs.sources])
    assert report["sources"]["even"]["kappa"]["mean"] == pytest.approx(cohen_kappa(pairs.judge[even], most[even], 3))
    assert report["sources"]["odd"]["observed"]["num"] == ((most != MISSING) & ~even).sum()


def test_the_order_of_annotators_and_pairs_changes_nothing(pairs: Annotated, report: dict) -> None:
    turned = annotated(
        pairs.judge[::-1],
        table(pairs)[::-1, ::-1],
        pairs.longer[::-1],
        *(list(each)[::-1] for each in (pairs.annotators, pairs.prompts, pairs.sources)),
    )
    found = people_report(turned, resamples=100)
    for name in ("kappa", "observed", "ac1"):
        assert found[name]["mean"] == pytest.approx(report[name]["mean"], abs=1e-12)
    for name in ("fleiss", "alpha", "ac1", "others_kappa", "judge_minus_people"):
        assert found["people"][name]["mean"] == pytest.approx(report["people"][name]["mean"], abs=1e-12)


def test_calling_the_second_response_the_first_leaves_every_coefficient(pairs: Annotated, report: dict) -> None:
    """Kappa depends on which response is the first pair by pair; turning all of them round only renames categories."""
    other = np.array([SECOND, FIRST, TIE, MISSING])
    turned = replace(pairs, judge=other[pairs.judge], said=other[pairs.said], longer=other[pairs.longer])
    found = people_report(turned, resamples=100)
    assert found["kappa"] == pytest.approx(report["kappa"], abs=1e-12)
    assert found["people"]["alpha"] == pytest.approx(report["people"]["alpha"], abs=1e-12)
    assert found["base_rates"]["judge"]["first"] == report["base_rates"]["judge"]["second"]


def test_one_annotator_has_no_ceiling() -> None:
    alone = planted(60, noise=(0.1,), missing=0.0)
    found = people_report(alone, resamples=50)
    assert found["people"] is None
    assert found["kappa"]["mean"] == pytest.approx(cohen_kappa(alone.judge, table(alone)[:, 0], 3))
    assert found["annotators"]["p0"]["others_kappa"] is None
    assert found["people_and_judge"]["alpha"] is not None


def test_without_ties_there_are_two_categories() -> None:
    """AC1 depends on the number of categories, so a tie that nobody could give does not count."""
    first = planted(60, noise=(0.1,), missing=0.0)
    two = replace(first, judge=first.judge % 2, said=first.said % 2)
    assert (two.num_categories, first.num_categories) == (2, 3)
    found = people_report(two, resamples=50)
    agree = (two.judge == table(two)[:, 0]).mean()
    share = np.mean([(two.judge == 0).mean(), (table(two) == 0).mean()])
    chance = 2 * share * (1 - share)
    assert found["ac1"]["mean"] == pytest.approx((agree - chance) / (1 - chance))


def test_many_annotators_of_a_few_pairs_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 5000 pairs and 5000 annotators would be 200 MB; only the busiest have figures of their own."""
    monkeypatch.setattr(people, "MOST_ALONE", 3)
    rng, number = np.random.default_rng(0), 5000
    truth, pair_of = rng.integers(0, 2, number), np.arange(number).repeat(2)
    said = np.where(rng.random(2 * number) < 0.1, 1 - truth[pair_of], truth[pair_of])
    who = (np.arange(2 * number) * 7) % number
    names, prompts = [f"p{n}" for n in range(number)], list(range(number))
    tracemalloc.start()
    found = people_report(Annotated(truth, pair_of, who, said, names, prompts, truth, [None] * number), resamples=20)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert (found["num_annotators"], found["num_annotators_left_out"]) == (number, number - 3)
    assert list(found["annotators"]) == names[:3]
    assert found["people"]["others_observed"]["mean"] == pytest.approx(0.9**2 + 0.1**2, abs=0.02)
    assert found["people"]["judge_others_observed"]["mean"] == pytest.approx(0.9, abs=0.02)
