"""Faults of tokens that the policy reads and did not make, and of the samplers that have them."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/types.py": (
        "u.types u.actor_critic",
        (
            (
                "context-is-not-attended-to",
                "[self.prompt_mask, self.read_mask]",
                "[self.prompt_mask, self.response_mask]",
            ),
            (
                "context-is-cut-off",
                "int(self.read_mask[rows].sum(1).max())",
                "int(self.response_mask[rows].sum(1).max())",
            ),
            ("context-without-a-response", "else self.context_mask & kept", "else self.context_mask"),
            ("context-is-forgotten-when-selected", "else self.context_mask[rows, :width]", "else None"),
        ),
    ),
    "prl/models/actor_critic.py": (
        "u.actor_critic u.critic",
        (
            (
                "values-of-what-is-read",
                "    mask = rollout.response_mask\n    return values",
                "    mask = rollout.read_mask\n    return values",
            ),
        ),
    ),
    "prl/rewards/shapers/overlong.py": (
        "u.shapers",
        (("overlong-counts-own-tokens-alone", "rollout.read_mask.sum(1)", "rollout.response_mask.sum(1)"),),
    ),
    "prl/rl/actors.py": (
        "u.actors",
        (
            (
                "validations-sample-as-training-does",
                "if training else self.sampler.answer(batch, self)",
                "if True else None",
            ),
        ),
    ),
    "lightning_modules/policy_base.py": (
        "u.policy_validation u.actors",
        (("validations-are-training", "self.generate(batch, training=False)", "self.generate(batch)"),),
    ),
    "lightning_modules/pairwise_ppo.py": (
        "u.actors",
        (("samplers-anchors-are-not-checked", "self.sampler.needs_anchors or (", "False or ("),),
    ),
    "prl/rollouts/generate.py": (
        "u.generate u.prefix_reset",
        (
            ("rows-end-late", "mask.device) < limits[:, None]", "mask.device) <= limits[:, None]"),
            ("ended-beyond-the-limit", "finished = finished & (mask.sum(1) <= limits)", "finished = finished & True"),
        ),
    ),
    "prl/rollouts/transcripts.py": (
        "u.prefix_reset",
        (
            ("context-is-the-policys", "own[context] = torch.tensor", "own[context] = ~torch.tensor"),
            ("continued-without-the-beginning", "[*ids[mask].tolist(), *each.ids]", "[*ids[mask].tolist()]"),
        ),
    ),
    "prl/data/turns.py": (
        "u.turns",
        (
            (
                "answers-begin-with-the-end-of-a-turn",
                "encode(ended + behind[len(end) :] + rest)",
                "encode(ended + behind + rest)",
            ),
            ("answers-are-not-of-a-user", '{"role": "user", "content": text}]', '{"role": "tool", "content": text}]'),
        ),
    ),
    "prl/environments/guess.py": (
        "u.guess",
        (
            ("range-keeps-what-was-guessed", "self.low = guess + 1", "self.low = guess"),
            ("numbers-outside-the-range-count", "not self.low <= guess <= self.high", "False"),
        ),
    ),
    "prl/rewards/environment.py": (
        "u.environment_reward",
        (
            (
                "last-turn-is-paid-twice",
                "list(each.ends[:-1])] = torch.tensor(each.rewards[:-1])",
                "list(each.ends)] = torch.tensor(each.rewards)",
            ),
            (
                "dense-or-not",
                "dense = token_rewards.to(device) if self.dense",
                "dense = token_rewards.to(device) if not self.dense",
            ),
        ),
    ),
    "prl/rl/validation.py": (
        "u.policy_validation",
        (
            ("components-of-one-process", "for own in everywhere for each", "for own in everywhere[:1] for each"),
            (
                "components-of-all-validations",
                "        self._components = {}\n\n    def add_components",
                "\n    def add_components",
            ),
        ),
    ),
    "prl/rollouts/conversation.py": (
        "u.conversation",
        (
            ("last-answers-are-written", "[] if is_over or is_last else", "[] if is_over else"),
            ("answers-fill-the-limit", "+ len(answer) < most:", "+ len(answer) <= most:"),
            ("answers-are-the-policys", "add(answer, own=False)", "add(answer, own=True)"),
            (
                "cut-turns-are-answered",
                "if not finished:\n                continue",
                "if False:\n                continue",
            ),
            (
                "turns-without-a-limit",
                "min(self.max_turn_tokens or most, most - len(each.ids))",
                "most - len(each.ids)",
            ),
            ("limits-of-a-turn-alone", "most - len(each.ids)) if playing", "most) if playing"),
            ("processes-do-not-wait", "any(gathered(bool(playing)))", "playing"),
        ),
    ),
    "prl/rollouts/prefix_reset.py": (
        "u.prefix_reset",
        (
            ("prefix-takes-all-tokens", "policy)[: most - 1]", "policy)[:most]"),
            ("prefix-is-never-whole", "(len(ids) + 1))]", "len(ids))]"),
            ("beta-is-one", "(torch.rand(groups) < self.beta)", "(torch.rand(groups) < 1)"),
            (
                "each-row-its-own-beginning",
                "if group not in prefixes:",
                "if True:\n                shares[group] = float(torch.rand(()))",
            ),
            (
                "prefix-beside-the-limit",
                "[most - len(each.ids) for each in transcripts]",
                "[most for each in transcripts]",
            ),
            (
                "validations-begin-with-prefixes",
                'from the prompt alone."""\n        return policy.generate(batch)',
                'from the prompt alone."""\n        return self.sample(batch, policy)',
            ),
            ("draws-without-prefixes", "if not self.beta:", "if not torch.rand(()):"),
            ("last-anchor-is-the-reference", "batch.anchors[row][0]", "batch.anchors[row][-1]"),
        ),
    ),
}
