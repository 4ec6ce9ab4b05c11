"""Faults of benchmarks and studies: figures that compare what is not alike."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "benchmarks/needed_work.py": (
        "u.needed_work",
        (
            ("shared-beginnings-count-again", "count += len(row) - shared", "count += len(row)"),
            ("attention-is-free", "+ 4.0 * self.layers * self.width * tokens.attended", ""),
            (
                "every-sample-reads-its-prompt",
                "(shape.forward(plain_tokens(prompts))",
                "(shape.forward(plain_tokens([*prompts] * per_prompt))",
            ),
            ("weights-are-read-once-a-rollout", "moved = 4.0 * (weights + ", "moved = 4.0 * ("),
        ),
    ),
    "benchmarks/ppo_vs_trl.py": (
        "u.speed",
        (
            ("the-critic-of-trl-is-its-judge", "if model is not self.reward_model:", "if False:"),
            ("different-tokens-are-compared", "for run in some}) > 1:", "for run in some}) > 2:"),
        ),
    ),
    "benchmarks/speed.py": (
        "u.speed",
        (
            (
                "rows-beside-trl-need-no-trl",
                'ours = [] if options.trl_python else ["--contestants", "own"]',
                "ours: list[str] = []",
            ),
        ),
    ),
    "experiments/instructions.py": (
        "u.instructions",
        (
            ("a-list-on-lines-is-a-list-by-commas", '(0.5 if "\\n" in response.strip() else 1.0)', "1.0"),
            ("a-mark-anywhere-is-an-end", "0.3 * (mark in response)", "1.0 * (mark in response)"),
            (
                "training-sees-topics-of-the-test",
                '_draw_instruction(draw, split != "train")',
                "_draw_instruction(draw, True)",
            ),
            (
                "training-sees-unseen-combinations",
                'in UNSEEN) == (split == "unseen")',
                'in UNSEEN) >= (split == "unseen")',
            ),
        ),
    ),
    "experiments/real_model_inputs.py": (
        "u.instructions",
        (
            ("blank-responses-are-compared", "if each[0]]", "]"),
            ("labels-are-never-wrong", "draw.random() < probability(one[1], other[1])", "one[1] > other[1]"),
        ),
    ),
}
