"""Faults of judges held against people, and of the averages of RewardBench."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/evaluation/judge/agreement.py": (
        "u.agreement",
        (
            ("chance-of-kappa-from-one-rater", "table.sum(-1) * table.sum(-2)", "table.sum(-1) * table.sum(-1)"),
            ("single-ratings-count-in-alpha", "counts * (number >= 2)[:, None]", "counts * (number >= 1)[:, None]"),
            ("ac1-without-the-number-of-categories", "/ (shares.shape[-1] - 1))", "/ shares.shape[-1])"),
            (
                "alpha-with-replacement",
                "number * (number - 1))\n    return _corrected(_quotient(diagonal",
                "number * number)\n    return _corrected(_quotient(diagonal",
            ),
        ),
    ),
    "prl/evaluation/judge/people.py": (
        "u.people u.annotated",
        (
            ("no-majority-is-a-majority", "is_single & (most > 0)", "most > 0"),
            ("annotators-are-among-their-others", "without[np.arange(len(self.said)), self.said] -= 1", "pass"),
            (
                "people-less-judge",
                "kappa_of_tables(sums[..., 9:]) - kappa_of_tables(sums[..., :9])",
                "kappa_of_tables(sums[..., :9]) - kappa_of_tables(sums[..., 9:])",
            ),
            ("ties-are-decided", "np.where(most == TIE, MISSING, most)", "most"),
        ),
    ),
    "prl/evaluation/judge/rewardbench.py": (
        "u.rewardbench",
        (
            ("mathematics-counts-by-its-rows", '"math-prm": 984', '"math-prm": 447'),
            ("prior-sets-count-whole", '0.5 if name == "Prior Sets"', '1.0 if name == "Prior Sets"'),
            ("best-of-four-with-ties-whole", "1.0 / (1 + int((against == 0).sum()))", "1.0"),
            ("hard-gap-is-the-easy-one", "min(tied, ref) > spread", "tied > spread"),
        ),
    ),
    "prl/evaluation/bootstrap.py": (
        "u.agreement",
        (
            (
                "statistic-resamples-rows",
                "index = number_groups(groups)\n    sums = np.stack(",
                "index = np.arange(len(features))\n    sums = np.stack(",
            ),
        ),
    ),
    "prl/data/rows/annotations.py": (
        "u.annotations u.annotated",
        (
            ("labels-stay-when-the-pair-turns", "{who: 1 - said if turned else said for", "{who: said for"),
            (
                "the-last-annotation-counts",
                "(twice := sorted(record.annotations.keys() & known.annotations.keys()))",
                "(twice := [])",
            ),
            (
                "sides-of-the-first-row-alone",
                "{said > 0.5 for said in record",
                "{(said > 0.5) == (turned == known.listed_first) for said in record",
            ),
            ("a-name-twice-is-the-last", "if (name := _name(who)) in said:", "if (name := _name(who)) in ():"),
            (
                "chosen-is-always-first",
                "return self._tells or len(self._winning_sides) < 2",
                "return len(self._winning_sides) < 0",
            ),
        ),
    ),
    "prl/judge/annotated.py": (
        "u.annotated",
        (("people-are-not-turned", "categories_of(side[pair_of] * signed)", "categories_of(signed)"),),
    ),
    "prl/judge/benchmark.py": (
        "u.benchmark",
        (("scores-against-later-responses-only", "(matrix - matrix.T).mean(1)", "matrix.mean(1)"),),
    ),
    "prl/judge/passport.py": (
        "i.judge_labels",
        (
            (
                "new-pairs-lose-the-agreement",
                '"agreement" not in old["report"] or described(old)',
                "True or described(old)",
            ),
        ),
    ),
    "prl/judge/agreement_passport.py": (
        "i.judge_labels",
        (
            (
                "agreement-of-any-judge",
                "if odd := [",
                "if False and [",
            ),
        ),
    ),
}
