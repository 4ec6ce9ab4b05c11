"""Faults of pairs that are made of a policy's own responses, and of rounds of them."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/pairs/candidates.py": (
        "u.pairs",
        (
            ("winner-and-loser-change-places", "= margin, -margin", "= -margin, margin"),
            ("every-order-agrees", "= not flipped", "= True"),
            ("win-rate-of-columns", "return self.win_prob.mean(1)", "return self.win_prob.mean(0)"),
            ("differences-turned", "each[:, None] - each[None, :]", "each[None, :] - each[:, None]"),
        ),
    ),
    "prl/pairs/referee.py": (
        "i.referee_command",
        (
            ("ranks-as-scores", 'order == "rank" else', 'order == "none" else'),
            ("gold-as-it-comes", "[ranking.gold[number] for number in order]", "list(ranking.gold)"),
            ("soft-labels-are-hard", "(pair.preference, 1 - pair.preference)", "(1.0, 0.0)"),
        ),
    ),
    "prl/pairs/corruption.py": (
        "u.corruption i.corrupt_command",
        (
            ("keywords-across-commas", 'if text[end : word.start()].strip(" "):', "if False:"),
            ("words-score-their-degree", "degree[word] / frequency[word] for word", "degree[word] for word"),
            ("the-least-important-go-first", "key=lambda each: -scores[each]", "key=lambda each: scores[each]"),
            ("levels-that-nobody-can-tell", "if count > taken and _WORD.search(rest):", "if True:"),
            (
                "both-sides-draw-one-level",
                'random.Random(f"{self.seed} {number} {side}")',
                'random.Random(f"{self.seed} {number}")',
            ),
            (
                "levels-of-any-seed",
                'random.Random(f"{self.seed} {number} {side}")',
                'random.Random(f"{number} {side}")',
            ),
        ),
    ),
    "prl/pairs/checks.py": (
        "u.pairs",
        (
            ("ties-are-pairs", "if margin == 0:", "if False:"),
            ("contradictions-are-pairs", "if margin < 0:", "if False:"),
            ("orders-need-not-agree", "if self.orders_agree and not bool", "if False and not bool"),
            ("limit-is-not-kept", "< self.min_win_prob:", "< 0.5:"),
        ),
    ),
    "prl/pairs/rules/by_source.py": (
        "u.pairs",
        (
            ("the-worst-of-chosen", "of(self.chosen)[:1]", "of(self.chosen)[-1:]"),
            ("any-source-will-do", "if name == POOL or name in writers[n]", "if True"),
        ),
    ),
    "prl/pairs/writers.py": (
        "u.pairs i.pairs_command",
        (
            ("repeated-responses-stay", "elif (groups[row], text) in seen:", "elif False:"),
            ("responses-behind-the-first-prompt", "rows = [first[each.place] for each in written]", "rows = [0 for each in written]"),
            ("any-writer-may-be-asked-for", "if name not in {SELF, POOL, *others, *named}]", "if False]"),
            ("others-are-forgotten", "written += [Written(place, text, name, finished)", "_ = [Written(place, text, name, finished)"),
        ),
    ),
    "prl/rewards/heron.py": (
        "u.heron",
        (
            ("equal-to-the-margin-decides", "(difference.abs() > margin)", "(difference.abs() >= margin)"),
            ("later-signals-decide", "(level == UNDECIDED) & (", "("),
            ("failed-signals-tie", "torch.where(difference.isnan(), difference, difference.sign())", "difference.sign()"),
            ("directions-of-signals-forgotten", "-1.0 if name in self.lower_is_better else 1.0", "1.0"),
            ("margins-are-multiples", "self.margins[name] if name in self.margins else", "self.margins[name] if False else"),
            ("first-level-has-a-margin", "1.0 if place else 0.0", "1.0"),
            ("deviation-of-responses-alone", "torch.cat([first[name], second[name]])", "first[name]"),
            ("signals-that-compare", "if sources[name].needs_anchors]", "if False]"),
            ("anchors-are-the-responses", "replace(others, texts=anchors)", "others"),
        ),
    ),
    "prl/pairs/ranked.py": (
        "u.heron i.pairs_command::test_the_first_signal_that_differs_labels_a_pair_and_undecided_pairs_are_counted",
        (
            ("a-failure-ties-with-itself-not", "    margin.fill_diagonal_(0)", "    # margin.fill_diagonal_(0)"),
            ("losers-are-first", "source.compare(rows, columns, thresholds)", "source.compare(columns, rows, thresholds)"),
            ("lists-of-labels", '"lists": lists}', '"lists": False}'),
        ),
    ),
    "prl/pairs/rules/rejection_sampled.py": (
        "u.pairs",
        (
            ("rewards-are-not-tilted", "/ beta):", "* beta):"),
            ("keeps-one-more", "if len(accepted) == keep:", "if len(accepted) > keep:"),
        ),
    ),
    "prl/pairs/making.py": (
        "i.pairs_command",
        (
            ("demonstrations-are-measured-as-pairs", "if isinstance(self.rule, PairRule):", "if True:"),
            ("texts-of-others-stay", "if name != self.written}", "}"),
            ("directions-beside-others", '"revisions", "others", "written")', '"revisions")'),
            ("rewards-read-the-direction", "None if asked is records else", "None if True else"),
            ("pairs-settings-of-demonstrations", "if not isinstance(self.rule, PairRule) and", "if False and"),
        ),
    ),
    "prl/cli/round_fits.py": (
        "i.rounds_command::test_mistakes_in_settings_are_told_first",
        (("columns-are-missed-after-sampling", "if name not in first.extra]:", "if False]:"),),
    ),
    "prl/pairs/rows.py": (
        "i.pairs_command",
        (
            (
                "rates-of-the-other",
                "float(rates[pair.chosen]), float(rates[pair.rejected])",
                "float(rates[pair.rejected]), float(rates[pair.rejected])",
            ),
            ("labels-of-the-prompts-stay", "if name not in read}", "}"),
            ("completion-of-another", "candidates.sources[kept][0]", "candidates.sources[0][0]"),
            ("reward-of-another", "float(rewards[kept])", "float(rewards[0])"),
        ),
    ),
    "prl/pairs/rules/best_of_n.py": (
        "u.pairs",
        (("keeps-the-worst", "candidates.texts)[:", "candidates.texts)[::-1][:"),),
    ),
    "prl/pairs/directions.py": (
        "u.directions i.dpa",
        (
            ("angles-in-radians", "math.radians(rng.uniform(*self.angles))", "rng.uniform(*self.angles)"),
            ("draws-of-one-length", "math.sin(angle) * each / length", "math.sin(angle) * each"),
            ("one-direction-for-all", 'f"{seed}/{number}/direction"', 'f"{seed}/direction"'),
            ("rounds-of-one-direction", 'f"{seed}/{number}/direction"', 'f"{number}/direction"'),
        ),
    ),
    "prl/cli/rounds_stage.py": (
        "i.dpa",
        (
            ("any-stage-for-any-rows", "wanted is not rule.record_type", "False"),
            ("demonstrations-have-a-reference", 'rounds.reference == "start"', "False"),
        ),
    ),
    "prl/pairs/parts.py": (
        "i.pairs_command",
        (("parts-of-other-settings", "if self._file.exists():\n            before", "if False:\n            before"),),
    ),
    "prl/pairs/revising.py": (
        "u.revising",
        (
            ("revises-with-one-draw", "start + SEED * revision", "start + SEED"),
            ("judged-behind-the-quote", "rollout = replace(revised, batch=rollout.batch)", "rollout = revised"),
        ),
    ),
    "prl/pairs/beside.py": (
        "i.pairs_command",
        (
            ("calibrates-with-the-draws-of-pairs", "seed=seed + SEED", "seed=seed"),
            ("proposals-untempered", "*inputs, temperature=temperature)", "*inputs)"),
        ),
    ),
    "prl/rounds/measuring.py": (
        "i.rounds_command",
        (("held-out-is-what-trains", "_wins(heldout, sampler", "_wins(maker.reward, sampler"),),
    ),
    "prl/rounds/kept.py": (
        "i.rounds_command",
        (
            (
                "changes-without-their-file",
                "changes(before.get(each), now.get(each), whole)",
                "changes(before.get(each), now.get(each), each)",
            ),
        ),
    ),
    "prl/system/children.py": (
        "u.children",
        (
            ("stops-are-not-passed-on", "            child.send_signal(number)\n\n", "            pass\n\n"),
            ("outlives-its-parent", "call(_END_WITH_PARENT, signal.SIGTERM)", "pass"),
        ),
    ),
    "prl/models/extrapolation.py": (
        "i.rounds_command",
        (("towards-the-older", "alpha * (weight - old[name])", "alpha * (old[name] - weight)"),),
    ),
    "prl/cli/commands/rounds.py": (
        "i.rounds_command",
        (
            ("rounds-of-other-settings", "if changed := changes(before, settings)", "if changed := None"),
            ("measures-under-one-reward", "config.maker(model, 0), config.heldout()", "config.maker(model, 0), None"),
            ("extrapolates-from-itself", 'out / f"round={number - 1}" / "fit" / "model"', 'run / "model"'),
        ),
    ),
}  # fmt: skip
