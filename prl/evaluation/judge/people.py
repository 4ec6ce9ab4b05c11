"""A judge held against people: agreement beyond chance, baselines, and how far people agree among themselves."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from prl.evaluation.bootstrap import bootstrap_statistic
from prl.evaluation.judge.agreement import (
    MISSING,
    ac1_of,
    alpha_of,
    category_counts,
    coincidence_sums,
    confusion,
    fleiss_of,
    kappa_of_tables,
    observed_of_tables,
    pairwise_agreement,
    rating_sums,
)

FIRST, SECOND, TIE = 0, 1, 2
NAMES = ("first", "second", "tie")
"""Categories of a verdict: the first response is better, the second is, neither is."""
MOST_COMPARED = 20
"""Annotators that are compared pair by pair, those with most annotations first."""

Statistic = Callable[[np.ndarray], np.ndarray]


def categories_of(numbers: np.ndarray, middle: float = 0.0, margin: float = 0.0) -> np.ndarray:
    """Sort numbers into FIRST, SECOND and TIE by their distance from the middle: [N] -> [N].

    Args:
        numbers: the higher, the better is the first response; NaN is MISSING.
        middle: where neither response is better.
        margin: largest distance from the middle that is a tie.
    """
    found = np.full(len(numbers), TIE)
    found[numbers - middle > margin] = FIRST
    found[middle - numbers > margin] = SECOND
    found[np.isnan(numbers)] = MISSING
    return found


def majority(counts: np.ndarray) -> np.ndarray:
    """Choose each item's most frequent category: [N, K] -> [N]; MISSING where no single one is the most frequent."""
    most = counts.max(1)
    is_single = (counts == most[:, None]).sum(1) == 1
    return np.where(is_single & (most > 0), counts.argmax(1), MISSING)


@dataclass(frozen=True)
class Annotated:
    """N pairs with the judge's categories and those of R annotators."""

    judge: np.ndarray
    """[N]."""
    people: np.ndarray
    """[N, R] with MISSING."""
    annotators: Sequence[str]
    """R names."""
    prompts: Sequence[Hashable]
    """N keys of prompts: pairs of one prompt are not independent."""
    longer: np.ndarray
    """[N] which response is the longer one; TIE where both are equally long."""
    sources: Sequence[str | None]
    """N names of sources."""

    @property
    def num_categories(self) -> int:
        """Count the categories: three where the judge or an annotator knows ties, otherwise two."""
        return 3 if (self.judge == TIE).any() or (self.people == TIE).any() else 2


def people_report(pairs: Annotated, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Compute the figures of docs/agreement.md as JSON values.

    A measured figure is {mean, low, high, num}, with its 95 % bootstrap interval over prompts and the number of pairs
    behind it; None where it is undefined.
    """
    measure = _Measure(pairs.prompts, resamples, seed)
    counts = category_counts(pairs.people, 3)
    most = majority(counts)
    decided = np.where(pairs.judge == TIE, MISSING, pairs.judge), np.where(most == TIE, MISSING, most)
    both = np.column_stack([np.where(most == MISSING, MISSING, pairs.judge), most])
    return {
        "num_pairs": len(pairs.judge),
        "num_prompts": len(set(pairs.prompts)),
        "num_annotators": len(pairs.annotators),
        "num_annotations": int((pairs.people != MISSING).sum()),
        "num_without_majority": int((most == MISSING).sum()),
        "num_categories": pairs.num_categories,
        "kappa": measure.table(pairs.judge, most, kappa_of_tables),
        "observed": measure.table(pairs.judge, most, observed_of_tables),
        "ac1": measure.ratings(both, pairs.num_categories)["ac1"],
        "kappa_decided": measure.table(*decided, kappa_of_tables),
        "observed_decided": measure.table(*decided, observed_of_tables),
        "base_rates": {
            "majority": shares_of(most),
            "annotations": shares_of(pairs.people.ravel()),
            "judge": shares_of(pairs.judge),
        },
        "baselines": _baselines(measure, pairs.longer, most),
        "annotators": _by_annotator(measure, pairs),
        "people": _people(measure, pairs),
        "people_and_judge": measure.ratings(np.column_stack([pairs.people, pairs.judge]), pairs.num_categories),
        "sources": _by_source(measure, pairs, most),
    }


def shares_of(categories: np.ndarray) -> dict[str, float | None]:
    """Compute the share of each category among the ratings that are there."""
    known = categories[categories != MISSING]
    return {name: float((known == n).mean()) if len(known) else None for n, name in enumerate(NAMES)}


class _Measure:
    """Figures with intervals over the prompts of the pairs."""

    def __init__(self, prompts: Sequence[Hashable], resamples: int, seed: int) -> None:
        self.prompts, self.resamples, self.seed = prompts, resamples, seed

    def __call__(self, features: np.ndarray, statistic: Statistic, number: int | None = None) -> dict[str, Any] | None:
        """Compute a statistic of the rows' sums; `number` of pairs are behind it, those that add something if None."""
        rows = np.flatnonzero(features.any(1)).tolist()
        interval = bootstrap_statistic(
            features[rows], [self.prompts[row] for row in rows], statistic, resamples=self.resamples, seed=self.seed
        )
        if interval is None:
            return None
        number = len(rows) if number is None else number
        return {"mean": interval.mean, "low": interval.low, "high": interval.high, "num": number}

    def table(self, one: np.ndarray, other: np.ndarray, statistic: Statistic) -> dict[str, Any] | None:
        """Compute a coefficient of two raters."""
        return self.tables([(one, other)], statistic)

    def tables(self, raters: Sequence[tuple[np.ndarray, np.ndarray]], statistic: Statistic) -> dict[str, Any] | None:
        """Compute a coefficient of the sum of the tables of several couples of raters."""
        return self(_tables(raters), statistic)

    def ratings(self, ratings: np.ndarray, num_categories: int) -> dict[str, Any]:
        """Compute the coefficients of any number of raters."""
        counts = category_counts(ratings, num_categories)
        sums, several = rating_sums(counts), int((counts.sum(1) >= 2).sum())
        return {
            "observed": self(sums, pairwise_agreement, several),
            "fleiss": self(sums, fleiss_of, several),
            "alpha": self(coincidence_sums(counts), alpha_of, several),
            "ac1": self(sums, ac1_of, several),
        }


def _tables(raters: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Sum what each item adds to the tables of several couples of raters: [N, 9]."""
    cells = np.zeros((len(raters[0][0]), 9))
    for one, other in raters:
        cells += confusion(one, other, 3)
    return cells


def _baselines(measure: _Measure, longer: np.ndarray, most: np.ndarray) -> dict[str, Any]:
    known = most[most != MISSING]
    constant = np.full(len(most), np.bincount(known, minlength=3).argmax() if len(known) else FIRST)
    return {
        "constant": measure.table(constant, most, observed_of_tables),
        "longer": measure.table(longer, most, observed_of_tables),
        "longer_kappa": measure.table(longer, most, kappa_of_tables),
    }


def _by_annotator(measure: _Measure, pairs: Annotated) -> dict[str, Any]:
    """Compute each annotator's agreement with the judge, and with the majority of the others."""
    others = _majorities_of_others(pairs.people)
    return {
        name: {
            "judge_observed": measure.table(pairs.judge, pairs.people[:, n], observed_of_tables),
            "judge_kappa": measure.table(pairs.judge, pairs.people[:, n], kappa_of_tables),
            "others_observed": measure.table(pairs.people[:, n], others[:, n], observed_of_tables),
            "others_kappa": measure.table(pairs.people[:, n], others[:, n], kappa_of_tables),
        }
        for n, name in enumerate(pairs.annotators)
    }


def _majorities_of_others(people: np.ndarray) -> np.ndarray:
    """Compute, for each annotation, the majority of the pair's other annotations: [N, R] -> [N, R] with MISSING."""
    counts = category_counts(people, 3)
    found = np.full(people.shape, MISSING)
    for n, said in enumerate(people.T):
        [rows] = (said != MISSING).nonzero()
        without = counts[rows]
        without[np.arange(len(rows)), said[rows]] -= 1
        found[rows, n] = majority(without)
    return found


def _people(measure: _Measure, pairs: Annotated) -> dict[str, Any] | None:
    """Compute how far people agree among themselves, and the judge on the very same annotations."""
    if len(pairs.annotators) < 2:
        return None
    others = _majorities_of_others(pairs.people)
    couples = list(zip(pairs.people.T, others.T, strict=True))
    # The judge stands in for each annotator in turn, so that both meet the same pairs and majorities.
    judged = [(pairs.judge, other) for other in others.T]
    cells = np.hstack([_tables(couples), _tables(judged)])
    compared = list(combinations(range(min(len(pairs.annotators), MOST_COMPARED)), 2))
    tables = {
        f"{pairs.annotators[i]} | {pairs.annotators[j]}": (pairs.people[:, i], pairs.people[:, j]) for i, j in compared
    }
    return {
        **measure.ratings(pairs.people, pairs.num_categories),
        "others_observed": measure.tables(couples, observed_of_tables),
        "others_kappa": measure.tables(couples, kappa_of_tables),
        "judge_others_observed": measure.tables(judged, observed_of_tables),
        "judge_others_kappa": measure.tables(judged, kappa_of_tables),
        "judge_minus_people": measure(cells, _difference_of_kappas),
        "pairwise_kappa": {
            name: found for name, each in tables.items() if (found := measure.table(*each, kappa_of_tables)) is not None
        },
    }


def _difference_of_kappas(sums: np.ndarray) -> np.ndarray:
    return kappa_of_tables(sums[..., 9:]) - kappa_of_tables(sums[..., :9])


def _by_source(measure: _Measure, pairs: Annotated, most: np.ndarray) -> dict[str, Any]:
    found = {}
    for source in sorted({source for source in pairs.sources if source is not None}):
        here = np.where([each == source for each in pairs.sources], most, MISSING)
        found[source] = {
            "kappa": measure.table(pairs.judge, here, kappa_of_tables),
            "observed": measure.table(pairs.judge, here, observed_of_tables),
        }
    return found
