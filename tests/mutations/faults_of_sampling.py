"""Faults of the decode loop, its draws, its cache and its weights."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/rollouts/plain_decoding.py": (
        "u.generate u.decoding",
        (
            ("sampling-in-training-mode", "    model.eval()\n    try:", "    try:"),
            ("rows-have-no-limits", "self.width >= self.limits", "self.width >= 10**9"),
            ("positions-run-on", "positions.minimum(last[:, None])", "positions"),
            ("choices-of-the-first-step", "input_ids.shape[1] - self.width)", "0)"),
        ),
    ),
    "prl/rollouts/decoding.py": (
        "u.decoding",
        (
            ("windows-are-forgotten", "all(type(layer) is DynamicLayer", "any(isinstance(layer, DynamicLayer)"),
            ("every-row-is-read", "    place = places.setdefault(tuple(", "    place = places.setdefault((row, *"),
            (
                "rows-change-places",
                "self.rows, newest = self.rows.select(places), newest[places]",
                "self.rows, newest = self.rows.select(places), newest[: len(places)]",
            ),
            (
                "numbers-of-another-row",
                "newest = choose(logits, self.rows.number, step)",
                "newest = choose(logits, torch.arange(len(logits)), step)",
            ),
            (
                "others-wait-for-ever",
                "        while self._anyone(False):\n            self._forward(self.prompt_ids[:1, -1], cache)\n            cache.rewind()\n",
                "        return\n",
            ),
        ),
    ),
    "prl/rollouts/row_cache.py": (
        "u.decoding",
        (
            ("rows-do-not-move", "        if sources:", "        if not sources:"),
            ("growth-forgets", "        new[:, :, : self.length] = old[: self.rows, :, : self.length]\n", ""),
        ),
    ),
    "prl/rollouts/drawing.py": (
        "u.drawing",
        (
            ("ties-of-the-sum-draw-nothing", "(within <= rest[:, None]).sum(-1)", "(within < rest[:, None]).sum(-1)"),
            ("draws-forget-the-block", "(targets - before).clamp(min=0)", "targets"),
            ("heat-the-other-way", ".div_(temperature)", ".mul_(temperature)"),
        ),
    ),
    "prl/models/packed_linear.py": (
        "u.packed_linear",
        (
            ("layers-stay-packed", '            layer.__dict__.pop("forward", None)', "            pass"),
            ("packed-without-bias", 'inputs, packed, bias, "none"', 'inputs, packed, None, "none"'),
        ),
    ),
    "prl/models/cast_once.py": (
        "u.cast_once",
        (
            ("casts-outlive-the-block", "        torch.clear_autocast_cache()\n", ""),
            ("frozen-weights-are-cast-anew", "each.requires_grad_(True)", "pass"),
        ),
    ),
}
