"""Chance-corrected agreement of raters who sort N items into K categories: kappas, alpha, AC1.

Every coefficient is a function of sums over items. So each has two parts: what an item adds to the sums, and the
coefficient of the sums. An interval resamples the first part and computes the second many times at once
(`prl.evaluation.bootstrap.bootstrap_statistic`).

Ratings are integers from 0 to K - 1; MISSING stands for none.
"""

import numpy as np

MISSING = -1
"""An item that a rater has not rated."""

_NOTHING = 1e-12
"""What is left of a denominator that is zero but for rounding."""


def cohen_kappa(one: np.ndarray, other: np.ndarray, num_categories: int) -> float:
    """Compute Cohen's kappa (1960) of two raters over the items that both rated: [N], [N] -> a number.

    Returns:
        (p_o - p_e) / (1 - p_e), where p_e is the agreement of two raters who keep their own shares of the categories
        and draw at random; NaN without items, and where both use a single category, the same.
    """
    return float(kappa_of_tables(confusion(one, other, num_categories).sum(0)))


def fleiss_kappa(ratings: np.ndarray, num_categories: int) -> float:
    """Compute Fleiss' kappa (1971) of [N, R] ratings; NaN where it is undefined.

    Fleiss defines it for equally many ratings of each item. Where the numbers differ it is Gwet's generalisation
    (Handbook of Inter-Rater Reliability, 2014): agreement is averaged over items with two ratings at least, the shares
    of the categories over all rated items, and each item counts once.
    """
    return float(fleiss_of(rating_sums(category_counts(ratings, num_categories)).sum(0)))


def gwet_ac1(ratings: np.ndarray, num_categories: int) -> float:
    """Compute Gwet's AC1 (2008) of [N, R] ratings; NaN where it is undefined.

    Its agreement by chance is sum(pi (1 - pi)) / (K - 1). So K counts, used or not: it is the number of categories
    that raters could choose from. Unlike kappa it stays high where nearly all items fall into one category.
    """
    return float(ac1_of(rating_sums(category_counts(ratings, num_categories)).sum(0)))


def krippendorff_alpha(ratings: np.ndarray, num_categories: int) -> float:
    """Compute Krippendorff's alpha of [N, R] ratings, nominal (2011); NaN where it is undefined.

    Ratings may be missing: an item counts by its number of ratings, and not at all with a single one.
    """
    return float(alpha_of(coincidence_sums(category_counts(ratings, num_categories)).sum(0)))


# ---- what an item adds


def confusion(one: np.ndarray, other: np.ndarray, num_categories: int) -> np.ndarray:
    """Mark each item's cell in the table of two raters: [N], [N] -> [N, K²]; zeros where a rating is missing."""
    cells = np.zeros((len(one), num_categories**2))
    [rated] = ((one != MISSING) & (other != MISSING)).nonzero()
    cells[rated, one[rated] * num_categories + other[rated]] = 1
    return cells


def category_counts(ratings: np.ndarray, num_categories: int) -> np.ndarray:
    """Count each item's ratings by category: [N, R] -> [N, K]."""
    return np.stack([(ratings == category).sum(1) for category in range(num_categories)], axis=1)


def rating_sums(counts: np.ndarray) -> np.ndarray:
    """Compute what an item adds to Fleiss' kappa and to AC1: [N, K] counts -> [N, K + 3].

    The columns: agreement of its pairs of raters, whether it has such a pair, whether it is rated, its shares.
    """
    number = counts.sum(1)
    agreement = (counts * (counts - 1)).sum(1) / np.maximum(number * (number - 1), 1)
    shares = counts / np.maximum(number, 1)[:, None]
    return np.column_stack([agreement, number >= 2, number >= 1, shares])


def coincidence_sums(counts: np.ndarray) -> np.ndarray:
    """Compute what an item adds to alpha: [N, K] counts -> [N, K + 1].

    The columns: the diagonal of its coincidence matrix, its ratings by category; zeros for an item of one rating.
    """
    number = counts.sum(1)
    paired = counts * (number >= 2)[:, None]
    diagonal = (paired * (paired - 1)).sum(1) / np.maximum(number - 1, 1)
    return np.column_stack([np.maximum(diagonal, 0), paired])


# ---- coefficients of sums


def observed_of_tables(sums: np.ndarray) -> np.ndarray:
    """Compute the share of items on which two raters agree: [..., K²] sums of `confusion` -> [...]."""
    table = _square(sums)
    return _quotient(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1)))


def kappa_of_tables(sums: np.ndarray) -> np.ndarray:
    """Compute Cohen's kappa: [..., K²] sums of `confusion` -> [...]."""
    table = _square(sums)
    number = table.sum((-2, -1))
    expected = _quotient((table.sum(-1) * table.sum(-2)).sum(-1), number**2)
    return _corrected(observed_of_tables(sums), expected)


def fleiss_of(sums: np.ndarray) -> np.ndarray:
    """Compute Fleiss' kappa: [..., K + 3] sums of `rating_sums` -> [...]."""
    return _corrected(pairwise_agreement(sums), (_shares(sums) ** 2).sum(-1))


def ac1_of(sums: np.ndarray) -> np.ndarray:
    """Compute Gwet's AC1: [..., K + 3] sums of `rating_sums` -> [...]."""
    shares = _shares(sums)
    return _corrected(pairwise_agreement(sums), (shares * (1 - shares)).sum(-1) / (shares.shape[-1] - 1))


def pairwise_agreement(sums: np.ndarray) -> np.ndarray:
    """Compute how often two raters of one item agree: [..., K + 3] sums of `rating_sums` -> [...]."""
    return _quotient(sums[..., 0], sums[..., 1])


def alpha_of(sums: np.ndarray) -> np.ndarray:
    """Compute Krippendorff's alpha: [..., K + 1] sums of `coincidence_sums` -> [...]."""
    diagonal, by_category = sums[..., 0], sums[..., 1:]
    number = by_category.sum(-1)
    expected = _quotient((by_category * (by_category - 1)).sum(-1), number * (number - 1))
    return _corrected(_quotient(diagonal, number), expected)


def _square(sums: np.ndarray) -> np.ndarray:
    side = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], side, side)


def _shares(sums: np.ndarray) -> np.ndarray:
    return _quotient(sums[..., 3:], sums[..., 2:3])


def _corrected(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return _quotient(observed - expected, 1 - expected)


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where nothing stands below."""
    some = np.abs(below) > _NOTHING
    return np.where(some, above / np.where(some, below, 1.0), np.nan)
