"""Faults of judges around a judge: readings that are not made, and those that are kept."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/judge/adaptive.py": (
        "u.adaptive_order",
        (
            ("the-policy-is-always-shown-first", "return (a == low) == bool(digest[0] & 1)", "return True"),
            ("the-first-in-the-alphabet-is-shown-first", "return (a == low) == bool(digest[0] & 1)", "return a == low"),
            ("near-counts-from-zero", "near = ((first - self.offset).abs()", "near = (first.abs()"),
            ("the-estimate-keeps-the-offset", "torch.where(alone, first - self.offset,", "torch.where(alone, first,"),
            ("equal-responses-are-read-in-one-order", "alone = ~same & ~first.isnan()", "alone = ~first.isnan()"),
            (
                "pairs-of-a-prompt-are-independent",
                "keys = list(range(len(verdict))) if prompts is None else list(prompts)",
                "keys = list(range(len(verdict)))",
            ),
            (
                "certainty-costs-nothing",
                "(error - of_prompts).log1p().sum()) < -math.log(1 - confidence)",
                "(error - of_prompts).log1p().sum()) < 0",
            ),
            (
                "a-pair-is-calibrated-with-itself",
                "[bias[half == 1].mean(), bias[half == 0].mean()]",
                "[bias[half == 0].mean(), bias[half == 1].mean()]",
            ),
        ),
    ),
    "prl/judge/store.py": (
        "u.verdict_store",
        (
            (
                "runs-read-what-others-write",
                'return {"run": self._run, "seen": dict(self._seen or {})}',
                'return {"run": self._run, "seen": {p.name: p.stat().st_size for p in shards_in(self.folder)}}',
            ),
            (
                "a-resumed-run-forgets-its-own",
                "own = [path for path in shards_in(self.folder) if self._is_own(path.name)]",
                "own: list[Path] = []",
            ),
            (
                "all-judges-are-one",
                "text = json.dumps([judge, list(prompt), first, second], sort_keys=True)",
                "text = json.dumps([list(prompt), first, second], sort_keys=True)",
            ),
            (
                "orders-are-one",
                "[judge, list(prompt), first, second], sort_keys",
                "[judge, list(prompt), *sorted((first, second))], sort_keys",
            ),
            ("failures-are-kept", "if math.isfinite(z)]", "]"),
            ("shards-are-written-to-again", 'path.open("x").close()', 'path.open("a").close()'),
        ),
    ),
    "prl/judge/stored.py": (
        "u.verdict_store",
        (
            (
                "what-is-found-is-computed-again",
                "lacking = [n for n, margin in enumerate(found) if margin is None]",
                "lacking = list(range(len(found)))",
            ),
            ("margins-of-any-settings", 'about["settings"] = {name: each', "_ = {name: each"),
        ),
    ),
    "prl/judge/verdict_export.py": (
        "u.verdict_store",
        (
            ("the-worse-is-chosen", "(b, a) if turn else (a, b)", "(a, b) if turn else (b, a)"),
            ("one-order-is-exported", "if a < b and (prompt, b, a) in margins:", "if a < b:"),
        ),
    ),
}
