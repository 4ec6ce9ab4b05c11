"""Faults of responses that policy, critic and reference read behind one copy of their prompt."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/models/prefix_sharing/prompt_attention.py": (
        "u.rollouts",
        (
            (
                "responses-see-padding-of-their-prompt",
                "if len(set(prompts)) > 1 else here[:1]",
                "if False else here[:1]",
            ),
            ("responses-see-what-comes", "dtype=torch.bool).tril()", "dtype=torch.bool)"),
            (
                "prompts-of-other-responses",
                "each[:, None].expand(-1, count, -1, -1, -1)",
                "each[None].expand(count, -1, -1, -1, -1)",
            ),
        ),
    ),
    "prl/models/prefix_sharing/rollouts.py": (
        "u.rollouts",
        (
            (
                "responses-begin-at-no-depth",
                "[len(prompt) for prompt, some in members.items() for _ in some]",
                "[0] * len(rows)",
            ),
            (
                "shared-rows-past-the-window",
                "row is None or longest > (attention_window(model) or longest) or",
                "row is None or",
            ),
            (
                "auto-shares-whatever-it-costs",
                "return row.cost(cost) < len(ids) * cost.row(ids.shape[1])",
                "return True",
            ),
            (
                "shared-rows-at-temperature-one",
                "states, ids, temperature=temperature, with_entropy",
                "states, ids, temperature=1.0, with_entropy",
            ),
            ("shared-state-of-the-token-itself", "start[:, None] + order - 1", "start[:, None] + order"),
        ),
    ),
    "prl/rl/minibatch.py": (
        "u.minibatch",
        (
            (
                "prompts-in-their-order",
                "order = torch.randperm(int(numbers.max()) + 1)",
                "order = torch.arange(int(numbers.max()) + 1)",
            ),
        ),
    ),
    "lightning_modules/policy_update.py": (
        "u.policy_update",
        (
            ("prompts-with-one-response-are-dealt-otherwise", "if self.sampling.per_prompt > 1 else", "if True else"),
            ("responses-are-dealt-apart", 'if self.packed == "off":', "if True:"),
        ),
    ),
    "lightning_modules/policy_estimates.py": (
        "u.policy_estimates",
        (
            (
                "estimates-share-no-prompt",
                "(PromptSharing(module.packed), PromptSharing(module.packed))",
                '(PromptSharing("off"), PromptSharing("off"))',
            ),
            ("micro-batches-begin-with-a-prompt", "first = samples - 1 if size % samples else 0", "first = 0"),
            ("casts-are-free", "        cast = tracker.live\n", "        cast = 0\n"),
            (
                "layouts-are-free",
                "for each in layers_to_pack(inner, rows, answer)) if whole and on_cpu else 0",
                "for each in layers_to_pack(inner, rows, answer)) if False else 0",
            ),
            ("shards-are-cast", "casts = cast_once(inner) if whole else nullcontext()", "casts = cast_once(inner)"),
            ("kept-passes-have-no-graph", "settings.epochs * settings.minibatches == 1 and", "False and"),
        ),
    ),
}
