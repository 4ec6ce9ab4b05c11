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
MOST_ALONE = 500
"""Annotators with figures of their own, those with most annotations first: a bootstrap each takes milliseconds."""

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
    """N pairs with the judge's categories, and A annotations of them by R annotators, each a pair, a name and a word.

    A table of [N, R] would be gigabytes where thousands of people annotate a few pairs each.
    """

    judge: np.ndarray
    """[N]."""
    pair_of: np.ndarray
    """[A] the pair of each annotation, ascending."""
    annotator_of: np.ndarray
    """[A] the number of its annotator, who has one of a pair at most."""
    said: np.ndarray
    """[A] its category."""
    annotators: Sequence[str]
    """R names, those with most annotations first."""
    prompts: Sequence[Hashable]
    """N keys of prompts: pairs of one prompt are not independent."""
    longer: np.ndarray
    """[N] which response is the longer one; TIE where both are equally long."""
    sources: Sequence[str | None]
    """N names of sources."""

    @property
    def num_categories(self) -> int:
        """Count the categories: three where the judge or an annotator knows ties, otherwise two."""
        return 3 if (self.judge == TIE).any() or (self.said == TIE).any() else 2

    def counts(self) -> np.ndarray:
        """Count each pair's annotations by category: [N, 3]."""
        number = len(self.judge)
        return np.bincount(self.pair_of * 3 + self.said, minlength=number * 3).reshape(number, 3)

    def said_by(self, annotator: int) -> np.ndarray:
        """Return the categories of one annotator: [N] with MISSING."""
        found, mine = np.full(len(self.judge), MISSING), self.annotator_of == annotator
        found[self.pair_of[mine]] = self.said[mine]
        return found

    def majorities_of_others(self) -> np.ndarray:
        """Compute, for each annotation, the majority of its pair's other annotations: [A] with MISSING."""
        without = self.counts()[self.pair_of]
        without[np.arange(len(self.said)), self.said] -= 1
        return majority(without)


def people_report(pairs: Annotated, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Compute the figures of docs/agreement.md as JSON values.

    A measured figure is {mean, low, high, num}, with its 95 % bootstrap interval over prompts and the number of pairs
    behind it; None where it is undefined.
    """
    measure = _Measure(pairs.prompts, resamples, seed)
    counts, others = pairs.counts(), pairs.majorities_of_others()
    most = majority(counts)
    decided = np.where(pairs.judge == TIE, MISSING, pairs.judge), np.where(most == TIE, MISSING, most)
    both = np.column_stack([np.where(most == MISSING, MISSING, pairs.judge), most])
    return {
        "num_pairs": len(pairs.judge),
        "num_prompts": len(set(pairs.prompts)),
        "num_annotators": len(pairs.annotators),
        "num_annotations": len(pairs.said),
        "num_annotators_left_out": max(len(pairs.annotators) - MOST_ALONE, 0),
        "num_without_majority": int((most == MISSING).sum()),
        "num_categories": pairs.num_categories,
        "kappa": measure.table(pairs.judge, most, kappa_of_tables),
        "observed": measure.table(pairs.judge, most, observed_of_tables),
        "ac1": measure.ratings(category_counts(both, pairs.num_categories))["ac1"],
        "kappa_decided": measure.table(*decided, kappa_of_tables),
        "observed_decided": measure.table(*decided, observed_of_tables),
        "base_rates": {
            "majority": shares_of(most),
            "annotations": shares_of(pairs.said),
            "judge": shares_of(pairs.judge),
        },
        "baselines": _baselines(measure, pairs.longer, most),
        "annotators": _by_annotator(measure, pairs, others),
        "people": _people(measure, pairs, others),
        "people_and_judge": measure.ratings((counts + _one_hot(pairs.judge))[:, : pairs.num_categories]),
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

    def __call__(
        self,
        features: np.ndarray,
        statistic: Statistic,
        number: int | None = None,
        pairs: np.ndarray | None = None,
    ) -> dict[str, Any] | None:
        """Compute a statistic of the sums of rows.

        Args:
            features: [n, F] what each row adds.
            statistic: sums -> the figure.
            number: pairs behind it; the rows that add something if None.
            pairs: [n] the pair of each row; the rows are all pairs if None.
        """
        rows = np.flatnonzero(features.any(1))
        prompts = [self.prompts[pair] for pair in (rows if pairs is None else pairs[rows]).tolist()]
        interval = bootstrap_statistic(features[rows], prompts, statistic, resamples=self.resamples, seed=self.seed)
        if interval is None:
            return None
        number = len(rows) if number is None else number
        return {"mean": interval.mean, "low": interval.low, "high": interval.high, "num": number}

    def table(
        self, one: np.ndarray, other: np.ndarray, statistic: Statistic, pairs: np.ndarray | None = None
    ) -> dict[str, Any] | None:
        """Compute a coefficient of two raters, of all pairs or of some."""
        return self(confusion(one, other, 3), statistic, pairs=pairs)

    def ratings(self, counts: np.ndarray) -> dict[str, Any]:
        """Compute the coefficients of any number of raters from the counts of each pair: [N, K]."""
        sums, several = rating_sums(counts), int((counts.sum(1) >= 2).sum())
        return {
            "observed": self(sums, pairwise_agreement, several),
            "fleiss": self(sums, fleiss_of, several),
            "alpha": self(coincidence_sums(counts), alpha_of, several),
            "ac1": self(sums, ac1_of, several),
        }


def _one_hot(categories: np.ndarray) -> np.ndarray:
    return category_counts(categories[:, None], 3)


def _baselines(measure: _Measure, longer: np.ndarray, most: np.ndarray) -> dict[str, Any]:
    known = most[most != MISSING]
    constant = np.full(len(most), np.bincount(known, minlength=3).argmax() if len(known) else FIRST)
    return {
        "constant": measure.table(constant, most, observed_of_tables),
        "longer": measure.table(longer, most, observed_of_tables),
        "longer_kappa": measure.table(longer, most, kappa_of_tables),
    }


def _by_annotator(measure: _Measure, pairs: Annotated, others: np.ndarray) -> dict[str, Any]:
    """Compute each annotator's agreement with the judge, and with the majority of the others."""
    by_name = np.argsort(pairs.annotator_of, kind="stable")
    ends = np.bincount(pairs.annotator_of, minlength=len(pairs.annotators)).cumsum()
    found = {}
    for name, mine in zip(pairs.annotators[:MOST_ALONE], np.split(by_name, ends[:-1]), strict=False):
        said, rows = pairs.said[mine], pairs.pair_of[mine]
        found[name] = {
            "judge_observed": measure.table(pairs.judge[rows], said, observed_of_tables, rows),
            "judge_kappa": measure.table(pairs.judge[rows], said, kappa_of_tables, rows),
            "others_observed": measure.table(said, others[mine], observed_of_tables, rows),
            "others_kappa": measure.table(said, others[mine], kappa_of_tables, rows),
        }
    return found


def _people(measure: _Measure, pairs: Annotated, others: np.ndarray) -> dict[str, Any] | None:
    """Compute how far people agree among themselves, and the judge on the very same annotations."""
    if len(pairs.annotators) < 2:
        return None
    people = _summed(confusion(pairs.said, others, 3), pairs)
    # The judge stands in for each annotator in turn, so that both meet the same pairs and majorities.
    judged = _summed(confusion(pairs.judge[pairs.pair_of], others, 3), pairs)
    compared = [(name, pairs.said_by(n)) for n, name in enumerate(pairs.annotators[:MOST_COMPARED])]
    kappas = {
        f"{one} | {other}": measure.table(said, theirs, kappa_of_tables)
        for (one, said), (other, theirs) in combinations(compared, 2)
    }
    return {
        **measure.ratings(pairs.counts()[:, : pairs.num_categories]),
        "others_observed": measure(people, observed_of_tables),
        "others_kappa": measure(people, kappa_of_tables),
        "judge_others_observed": measure(judged, observed_of_tables),
        "judge_others_kappa": measure(judged, kappa_of_tables),
        "judge_minus_people": measure(np.hstack([people, judged]), _difference_of_kappas),
        "pairwise_kappa": {name: found for name, found in kappas.items() if found is not None},
    }


def _summed(cells: np.ndarray, pairs: Annotated) -> np.ndarray:
    """Sum what the annotations add by pair: [A, F] -> [N, F]."""
    number = len(pairs.judge)
    return np.stack([np.bincount(pairs.pair_of, column, number) for column in cells.T], axis=1)


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
