"""Faults of arenas: the scale, its intervals, which comparison comes next, and what a folder goes on with."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/evaluation/arena/bradley_terry.py": (
        "u.arena_scale u.arena_report",
        (
            ("arena-prior-pulls-nobody", "gradient[:, :num_players] += prior_ties * (0.5 - own)", "pass"),
            ("arena-ties-are-losses-of-the-second", "reaches[second, first] |= points < counts", "pass"),
            ("arena-length-has-no-curve", "found[:, -1, -1] = own @ length", "found[:, -1, -1] = 1e9"),
        ),
    ),
    "prl/evaluation/arena/intervals.py": (
        "u.arena_scale u.arena_report",
        (
            ("arena-resamples-no-prompts", "generator.multinomial(num_prompts, uniform, size)", "np.ones((size, num_prompts))"),
            ("arena-others-shift", "moved = found + shift", "moved = found"),
            ("arena-differences-without-an-error", "error = max(error, math.sqrt(", "error = min(error, math.sqrt("),
            ("arena-open-ends-are-closed", "(scores + error).masked_fill(open_high, torch.inf)", "scores + error"),
        ),
    ),
    "prl/evaluation/arena/pairing.py": (
        "u.arena_pairing u.arena_playing",
        (
            ("arena-variances-count-alike", "importance = (variances / variances.max()) ** (POWER - 1)", "importance = np.ones(len(variances))"),
            ("arena-far-players-meet", "return shrink * prob * (1 - prob)", "return 0.25"),
            ("arena-prompts-in-their-order", "np.lexsort((self._prompt_rank[free], own.sum(1), used))", "np.argsort(free)"),
        ),
    ),
    "prl/evaluation/arena/contradictions.py": (
        "u.arena_report",
        (
            ("arena-circles-in-one-direction", "for order in ((a, b, c), (a, c, b)):", "for order in ((a, b, c),):"),
            ("arena-wins-of-one-prompt-are-sure", "added = NORMAL**2", "added = 1e-9"),
            ("arena-intervals-are-not-turned", "1 - rate, 1 - high, 1 - low", "1 - rate, low, high"),
        ),
    ),
    "prl/evaluation/arena/lengths.py": (
        "u.arena_scale u.arena_report",
        (("arena-lengths-of-one-side", "True, True\n", "True, False\n"),),
    ),
    "prl/arena/playing.py": (
        "u.arena_playing",
        (
            ("arena-forgets-what-was-played", "pairing.add(each.game for each in self.played[:start])", "pass"),
            ("arena-plans-from-half-a-block", "pairing.plan(self._scores(start), self.block)", "pairing.plan(self._scores(len(self.played)), self.block)"),
        ),
    ),
    "prl/arena/record.py": (
        "u.arena_playing",
        (
            ("arena-keeps-half-a-block", 'whole -= len(last) if len(last) < lines[-1]["of"] else 0', "pass"),
            ("arena-drops-one-order", "verdict.win_logit)", "(verdict.margin_ab - verdict.margin_ba) / 2)"),
            ("arena-mixes-judges", 'if self.key(game) != line["key"]:', "if False:"),
        ),
    ),
    "prl/arena/responses.py": (
        "u.arena_responses",
        (("arena-responses-in-the-order-of-the-file", "return [found[prompt_key(record.prompt)][0] for record in records]", "return [text for _, text in pairs]"),),
    ),
    "prl/cli/commands/arena.py": (
        "u.arena_folder",
        (
            ("arena-settings-are-final", "if not has_begun and not (changed", "if False and not (changed"),
            ("arena-sampled-players-change", "part in new and responses_file(options.out, part).exists()", "False"),
        ),
    ),
    "lightning_modules/callbacks/run_arena.py": (
        "i.arena_command::test_validations_of_a_run_join_its_arena u.run_arena",
        (
            ("arena-keeps-other-prompts", '{row["a"], row["b"]} <= players.keys()', "True"),
            ("arena-takes-another-judge", "if before.get(name) != about.get(name)]:", "if False]:"),
            ("arena-newest-first", "newest=True", "newest=False"),
            ("arena-below-the-first", "len(players) - 1, 0)", "0, len(players) - 1)"),
        ),
    ),
}  # fmt: skip
