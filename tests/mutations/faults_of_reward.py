"""Faults of judges and reward models in training: their stages, what is checked, and their objectives."""

_STAGES = "u.judge_levers u.pair_weights u.accumulation u.fused_training u.reward_objectives"
_OBJECTIVES = "u.reward_losses u.reward_socket u.every_method"

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "lightning_modules/generative_reward.py": (
        _STAGES,
        (
            ("random-order-keeps-its-target", "~swapped.to(device)[None]", "torch.ones_like(swapped).to(device)[None]"),
            ("both-orders-have-one-target", "torch.tensor([True, False], device", "torch.tensor([True, True], device"),
            ("logged-margin-is-doubled", "pairs.chosen_margin().mean(0)", "pairs.chosen_margin().sum(0)"),
            ("text-term-is-not-learnt", "return verdict_loss + text_loss[0]", "return verdict_loss"),
            ("judge-reads-no-columns", "numbers_of(batch, self.objective.columns)", "{}"),
            ("judge-does-as-it-likes", "        check_judge_needs(self.objective, order)\n", ""),
        ),
    ),
    "lightning_modules/bradley_terry.py": (
        _STAGES,
        (
            ("scalar-learns-the-wrong-way-round", "(weighted_reward(chosen, self.head_weights) - weighted_reward(rejected, self.head_weights))", "(weighted_reward(rejected, self.head_weights) - weighted_reward(chosen, self.head_weights))"),
            ("heads-are-mixed-up", '"chosen_rewards": chosen, "rejected_rewards": rejected', '"chosen_rewards": rejected, "rejected_rewards": chosen'),
            ("heads-of-equal-weight-on-disk", "merge=merge, **heads", "merge=merge"),
            ("scalar-reads-no-columns", "numbers_of(batch, [*self.objective.columns, *self.objective.optional_columns])", "{}"),
            ("scalar-does-as-it-likes", "        check_scalar_needs(self.objective)\n", ""),
        ),
    ),
    "lightning_modules/reward_checks.py": (
        "u.reward_objectives",
        (
            ("judge-takes-rewards", "    if objective.head_weights:\n", "    if False:\n"),
            ("one-order-does-for-both", 'and order != "both":', "and False:"),
            ("heads-of-any-weight", "if not math.isfinite(weight)", "if False"),
        ),
    ),
    "prl/objectives/reward/base.py": (
        _OBJECTIVES,
        (
            ("target-of-the-first-is-that-of-chosen", "torch.where(self.chosen_first, target, 1 - target)", "torch.where(self.chosen_first, target, target)"),
            ("margin-of-chosen-is-that-of-the-first", "torch.where(self.chosen_first, self.margin, -self.margin)", "self.margin + 0 * self.chosen_first"),
        ),
    ),
    "prl/objectives/reward/bradley_terry.py": (
        f"{_OBJECTIVES} {_STAGES}",
        (
            ("bradley-terry-forgets-smoothing", "smooth(batch.target, self.label_smoothing)", "batch.target"),
            ("readings-are-summed", "in readings]).mean(0)", "in readings]).sum(0)"),
        ),
    ),
    "prl/objectives/reward/multi_head.py": (
        f"{_OBJECTIVES} u.multi_head",
        (
            ("missing-scores-are-0", "there * errors", "errors"),
            ("one-response-learns", "(losses[0] + losses[1]) / 2", "losses[0]"),
        ),
    ),
    "prl/rewards/multi_head.py": (
        "u.multi_head",
        (
            ("direction-of-the-first-prompt", "weights[rows].to(heads)", "weights[:1].to(heads)"),
            ("weights-are-not-normalised", "keepdim=True) if self.normalize", "keepdim=True) if False"),
            ("heads-in-the-order-of-the-weights", "self.weights.get(name, 0.0) for name in self.head_names", "self.weights.get(name, 0.0) for name in self.weights"),
            ("unknown-heads-of-a-direction", "found.keys() <= set(self.head_names)", "True"),
        ),
    ),
    "prl/objectives/reward/pairwise.py": (
        f"{_OBJECTIVES} {_STAGES}",
        (
            ("smoothing-forgotten", "smooth(batch.target, self.label_smoothing)", "batch.target"),
            ("consistency-of-one-reading", "torch.sigmoid(batch.margin[1]) - 1", "torch.sigmoid(batch.margin[0]) - 1"),
            ("logit-consistency-of-a-difference", "(batch.margin[0] + batch.margin[1]).square()", "(batch.margin[0] - batch.margin[1]).square()"),
            ("language-loss-of-one-target", "*batch.verdict_logits(), batch.of_first(target)", "*batch.verdict_logits(), target"),
            ("logits-without-need", "self.needs_logits = language_coef > 0", "self.needs_logits = False"),
            ("no-need-of-both-orders", "consistency_coef + logit_consistency_coef > 0", "consistency_coef < 0"),
        ),
    ),
    "prl/rewards/ensemble.py": (
        "u.ensemble",
        (
            ("worst-is-the-best", "rewards.amin(0)", "rewards.amax(0)"),
            ("doubt-is-a-bonus", "mean - coef * member_variance", "mean + coef * member_variance"),
            ("variance-of-one-kind", '(variance == "unbiased")', "True"),
            ("one-member-divides-by-zero", 'variance == "unbiased"), 1)', 'variance == "unbiased"), 0)'),
            ("ensemble-without-scales", "(rewards - self.means[place]) / self.stds[place]", "rewards - self.means[place]"),
            ("ensemble-without-offsets", "(rewards - self.means[place]) / self.stds[place]", "rewards / self.stds[place]"),
            ("ensemble-does-not-wait", "            member.model.finish()\n", "            pass\n"),
            ("ensemble-without-anchors", "    needs_anchors = False\n", "    needs_anchors = True\n"),
            ("ensemble-of-equal-members", "len(set(paths)) < len(paths)", "False"),
            ("ensemble-reads-the-first-member", "self.members[place]", "self.members[0]"),
            ("spaces-are-rewarded", "text.strip() for text", "text for text"),
        ),
    ),
    "prl/rewards/scalar.py": (
        "u.reward_objectives u.judges u.reward_sources",
        (
            ("heads-weigh-alike", "rewards * rewards.new_tensor(head_weights)", "rewards * torch.ones_like(rewards.new_tensor(head_weights))"),
            ("heads-of-a-folder-forgotten", "self.head_weights = head_weights_of(settings)", "self.head_weights = (1.0,)"),
        ),
    ),
    "prl/rewards/implicit.py": (
        "u.implicit_reward",
        (
            ("implicit-reward-without-scale", "beta * responses.log_ratio()", "responses.log_ratio()"),
            ("implicit-reward-never-per-token", "if per_token else rewards", "if False else rewards"),
            ("implicit-reward-reads-prompts", "mask & (torch.arange(ids.shape[1]) >= starts[:, None])", "mask"),
            ("reference-of-other-tokens", 'check_same_ids(sources["reference"], tokenizer, setting="reference")', "pass"),
        ),
    ),
    "prl/judge/encoding.py": (
        "u.reward_objectives u.judge_levers",
        (("rows-of-a-judge-for-any-columns", "self.on_too_long, *self.columns)", "self.on_too_long)"),),
    ),
    "prl/renamed/settings.py": (
        "u.renamed",
        (
            ("old-smoothing-keeps-its-number", 'old.get("label_smoothing", 0.0) / 2', 'old.get("label_smoothing", 0.0)'),
            ("old-losses-are-of-two-tokens", 'old.get("verdict_loss", "two_tokens") == "two_tokens"', "True"),
        ),
    ),
}  # fmt: skip
