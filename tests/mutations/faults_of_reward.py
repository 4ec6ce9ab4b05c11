"""Faults of judges and reward models in training: their stages, what is checked, and their objectives."""

_STAGES = "u.reward_passes u.judge_levers u.pair_weights u.accumulation u.fused_training u.reward_objectives u.general_preference_judge"
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
            ("scalar-learns-the-wrong-way-round", "return weighted_reward(chosen, self.head_weights) - weighted_reward(rejected, self.head_weights)", "return weighted_reward(rejected, self.head_weights) - weighted_reward(chosen, self.head_weights)"),
            ("heads-are-mixed-up", '"chosen_rewards": chosen, "rejected_rewards": rejected', '"chosen_rewards": rejected, "rejected_rewards": chosen'),
            ("heads-of-equal-weight-on-disk", "merge=merge, **heads", "merge=merge"),
            ("scalar-reads-no-columns", "numbers_of(batch, [*self.objective.columns, *self.objective.optional_columns])", "{}"),
            ("embeddings-are-added-up", "        if self.operator is not None:\n            return self.operator.margin", "        if False:\n            return self.operator.margin"),
            ("prompts-are-not-asked", "prompts=self._reads_prompts", "prompts=False"),
            ("heads-of-embeddings-are-wide", "small_head=embeds", "small_head=False"),
            ("scalar-does-as-it-likes", "        check_scalar_needs(self.objective)\n", ""),
            ("passes-without-checks", "        check_passes(self.objective, model, unlabelled)\n", ""),
            ("states-of-chosen-alone", '"rejected_states": rejected}', '"rejected_states": chosen}'),
            ("dropout-of-its-own", "using_dropout(self.model, self.objective.dropout)", "using_dropout(self.model, 0.1)"),
            ("saves-what-is-ahead", "        self.on_after_backward()\n        super()", "        super()"),
        ),
    ),
    "prl/judge/fences.py": (
        "u.fences",
        (
            ("tags-in-full-width-pass", "if not text.isascii() and", "if False and"),
            ("closing-tags-pass", r"<(\s*/?\s*(?:", r"<(\s*(?:"),
            ("tags-in-capitals-pass", ", re.IGNORECASE)", ")"),
        ),
    ),
    "prl/judge/prompt_sketch.py": (
        "u.run_gate",
        (
            ("share-of-all-in-a-sample", "if len(self.hashes) < self.num:", "if False:"),
            ("prompts-count-as-often-as-they-come", "return np.unique(first.astype(np.uint64))", "return np.sort(first.astype(np.uint64))"),
        ),
    ),
    "prl/judge/run_gate.py": (
        "u.run_gate",
        (
            ("one-base-is-two", "if same and not gate.same_base:", "if False:"),
            ("two-bases-are-one", "if not same and gate.same_base:", "if False:"),
            ("unknown-overlap-is-none", "    if share is None:\n", "    if share is None:\n        return []\n"),
        ),
    ),
    "prl/judge/lineage.py": (
        "u.run_gate",
        (
            ("other-weights-are-another-base", 'if one["name"] is not None and other["name"] is not None:', "if True:"),
            ("adapters-are-a-base", "base_of(source.path) or source.path", "source.path"),
        ),
    ),
    "prl/judge/attacks/rows.py": (
        "u.attacks u.datamodules",
        (
            ("attacks-lose-to-chosen-whatever-the-label", "pair.chosen if pair.preference >= 0.5 else pair.rejected", "pair.chosen"),
            ("examined-texts-are-trained-on", "{*attacks(pair.prompt, verdicts).values(), better}", "{better}"),
            ("attacks-of-one-row-for-all", 'Random(f"{self.seed}/{row}/{number}")', 'Random(f"{self.seed}/{number}")'),
            ("held-out-families-are-trained-on", "if name not in self.held_out]", "]"),
        ),
    ),
    "prl/judge/attacks/report.py": (
        "u.attacks u.judge_gate",
        (
            ("held-out-rate-is-that-of-all", "report.keys() & attacks_of(families)", "report.keys()"),
        ),
    ),
    "lightning_modules/reward_checks.py": (
        "u.reward_objectives u.general_preference_judge",
        (
            ("judge-takes-rewards", "    if objective.head_weights:\n", "    if False:\n"),
            ("one-order-does-for-both", 'and order != "both":', "and False:"),
            ("heads-of-any-weight", "if not math.isfinite(weight)", "if False"),
            ("judge-takes-embeddings", "    if objective.operator is not None:\n", "    if False:\n"),
            ("embeddings-and-rewards", "if objective.operator is not None and objective.head_weights:", "if False:"),
        ),
    ),
    "prl/judge/reasoning.py": (
        "u.reasoning u.reasoning_reward",
        (
            ("thoughts-of-one-reading-are-one", "json.dumps([seed, list(reading), sample])", "json.dumps([seed, list(reading), 0])"),
            ("draws-by-place-in-the-batch", "name_of(seed, reading, number) for reading in readings", "name_of(seed, [place], number) for place, reading in enumerate(readings)"),
            ("end-of-a-thought-is-read", "Thought(tuple(row[: ends[0]]), row[ends[0]])", "Thought(tuple(row[: ends[0] + 1]), row[ends[0]])"),
            ("special-tokens-are-sampled", "for number in self._special if number < len(barred)", "for number in self._special if number < 0"),
            ("likelihood-forgets-the-end", "counts[i, first : first + len(thought)] = True", "counts[i, first : first + len(written[i])] = True"),
            ("kept-thoughts-are-thought-anew", "for reading in readings if tuple(reading) not in kept]", "for reading in readings]"),
            ("opened-thoughts-stay-open", "*thought, *end, *self.compiled.closing]", "*thought, *self.compiled.closing]"),
            ("unfinished-are-not-counted", "self.unfinished += sum(thought.end is None", "self.unfinished += sum(thought.end is not None"),
        ),
    ),
    "prl/judge/critiques.py": (
        "u.reasoning_reward",
        (
            ("critique-without-its-end", "[[*ids, end] for ids in", "[[*ids] for ids in"),
            ("critiques-change-places", "first, second = critiques or", "second, first = critiques or"),
        ),
    ),
    "prl/objectives/reward/thought_likelihood.py": (
        f"u.thoughts {_OBJECTIVES}",
        (
            ("likelihood-without-baseline", "weights - 1 / len(margins)", "weights"),
            ("likelihood-of-the-mean-log", "first.logsumexp(0) + (1 - target) * second.logsumexp(0) - math.log(len(margins))", "first.mean(0) + (1 - target) * second.mean(0)"),
        ),
    ),
    "prl/objectives/reward/verdict_reward.py": (
        f"u.thoughts {_OBJECTIVES}",
        (
            ("baseline-counts-itself", "(rewards.sum(0) - rewards) / (len(margins) - 1)", "rewards.mean(0)"),
            ("verdict-of-a-tie-is-wrong", "1 - (wins(margins) - side).abs()", "(wins(margins) == side).to(margins.dtype)"),
        ),
    ),
    "lightning_modules/reasoning_reward.py": (
        "u.reasoning_reward",
        (
            ("every-step-draws-alike", "self.trainer.global_step}", "0}"),
            ("one-order-for-a-whole-batch", "Random(name_of(seed, pair, 0))", "Random(seed)"),
            ("critiques-without-verdict", "further = further + soft_logistic(", "further = further + 0 * soft_logistic("),
            ("kl-is-not-learnt", "return pairs, self.kl_coef * kl", "return pairs, 0.0 * kl"),
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
    "prl/objectives/skew_symmetric.py": (
        "u.general_preference u.general_preference_judge",
        (
            ("operator-is-symmetric", "- u[..., 1::2] * v[..., 0::2]", "+ u[..., 1::2] * v[..., 0::2]"),
            ("operator-of-the-first-block", "return scores.sum(-1) / self.tau", "return scores[..., 0] / self.tau"),
            ("scores-without-scale", "scores.sum(-1) / self.tau", "scores.sum(-1)"),
            ("embeddings-keep-their-length", "        if self.normalize:\n", "        if False:\n"),
            ("blocks-are-not-weighed", "        if blocks is not None:\n            scores", "        if False:\n            scores"),
            ("blocks-sum-to-one", "(blocks.softmax(-1) * blocks.shape[-1])", "blocks.softmax(-1)"),
            ("blocks-of-any-width", "outputs[..., self.dim :] / math.sqrt(hidden)", "outputs[..., self.dim :]"),
            ("any-blocks-do", "        if (blocks is not None) != self.prompt_head:", "        if False:"),
        ),
    ),
    "prl/objectives/reward/general_preference.py": (
        "u.general_preference",
        (
            ("preference-is-turned", "self.operator.margin(*batch.head_rewards()", "-self.operator.margin(*batch.head_rewards()"),
            ("preference-forgets-smoothing", "smooth(batch.target, self.label_smoothing)", "batch.target"),
        ),
    ),
    "prl/judge/general_preference.py": (
        "u.general_preference_judge",
        (
            ("embeddings-of-the-same-side", "embedded[0::2], embedded[1::2]", "embedded[0::2], embedded[0::2]"),
            ("one-prompt-for-all", "hidden_size(self.model))[places]", "hidden_size(self.model))[0 * places]"),
            ("prompts-are-read-again-and-again", "for key in index])", "for key in keys])"),
            ("operator-of-a-folder-forgotten", "self.operator = SkewSymmetric(**settings", "SkewSymmetric(**settings"),
            ("embeddings-need-no-anchors", "    needs_anchors = True\n", ""),
        ),
    ),
    "prl/judge/passport.py": (
        "u.general_preference_judge",
        (("passport-of-any-operator", 'if "preference" in settings else {}', 'if False else {}'),),
    ),
    "prl/models/loading.py": (
        "u.general_preference_judge",
        (
            ("new-heads-are-wide", "        for name in made:\n", "        for name in ():\n"),
            ("trained-heads-begin-anew", "    return model, missing\n", '    return model, {"score.weight"}\n'),
        ),
    ),
    "prl/data/encoding.py": (
        "u.general_preference_judge",
        (
            ("rows-with-prompts-are-rows-without", '*(["prompts"] if self.prompts else [])', ""),
            ("prompts-alone-are-not-cut", "        if len(ids) > room:\n            ids, _", "        if False:\n            ids, _"),
        ),
    ),
    "prl/rewards/folder_checks.py": (
        "u.general_preference_judge",
        (
            ("any-operator-of-a-folder", "    if odd := [name for name in (\"normalize\"", "    if False and [name for name in (\"normalize\""),
            ("numbers-of-an-operator-are-texts", 'if not is_count(given["dim"]) or not is_number(given["tau"]):', "if False:"),
        ),
    ),
    "prl/objectives/reward/preference_strength.py": (
        "u.preference_strength",
        (
            ("margin-is-a-discount", "batch.margin - self.margin_coef * of_first", "batch.margin + self.margin_coef * of_first"),
            ("margin-of-one-side", "torch.where(batch.chosen_first, mean, -mean)", "torch.where(batch.chosen_first, mean, mean)"),
            ("labels-stay-hard", "mean.sigmoid() if self.soft_labels else", "mean.sigmoid() if False else"),
            ("strength-forgets-smoothing", "batch.target, self.label_smoothing)", "batch.target, 0.0)"),
            ("margins-of-any-weight", "self.margin_coef * of_first", "of_first"),
        ),
    ),
    "prl/objectives/reward/contrastive.py": (
        "u.contrastive u.every_method",
        (
            ("states-of-any-length", "one, other = normalize(views.float(), dim=-1)", "one, other = views.float()"),
            ("one-view-of-itself", "one @ other.T", "one @ one.T"),
            ("rejected-are-let-be", ".view(2, -1).mean(0)", ".view(2, -1)[0]"),
            ("sums-in-place-of-differences", "info_nce(chosen - rejected", "info_nce(chosen + rejected"),
            ("term-of-any-weight", "loss + self.beta * apart", "loss + apart"),
            ("passes-without-weight", "        if beta:\n", "        if True:\n"),
            ("one-pair-is-enough", "elif len(batch) > 1:", "elif True:"),
        ),
    ),
    "prl/objectives/reward/meta_rm.py": (
        "u.meta_rm u.every_method",
        (
            ("responses-are-compared-with-themselves", "offset=1", "offset=0"),
            ("apart-in-one-direction", ".abs().sigmoid()", ".sigmoid()"),
            ("sum-over-pairs", "2 / count**2 * (", "2 / count * ("),
            ("looks-ahead-without-a-step", "        if eta:\n", "        if True:\n"),
        ),
    ),
    "prl/objectives/reward/irl.py": (
        "u.irl u.every_method",
        (
            ("demonstrations-are-worse", "(chosen - rejected)\n", "(rejected - chosen)\n"),
            ("demonstrations-have-no-bound", "(chosen.square() + rejected.square())", "rejected.square()"),
            ("samples-have-no-bound", "(chosen.square() + rejected.square())", "chosen.square()"),
            ("rewards-of-any-scale", "rewards[:, 0] / self.beta for", "rewards[:, 0] for"),
            ("ties-of-demonstrations-count", "(2 * batch.target - 1)", "batch.target"),
        ),
    ),
    "prl/models/dropout.py": (
        "u.reward_passes",
        (
            ("dropout-stays-on", "            setattr(module, name, value)\n\n\n@contextmanager", "            pass\n\n\n@contextmanager"),
            ("any-model-drops", "    if not places:\n", "    if False:\n"),
        ),
    ),
    "lightning_modules/look_ahead.py": (
        "u.reward_passes",
        (
            ("looks-behind", "alpha=self.objective.look_ahead", "alpha=-self.objective.look_ahead"),
            ("looks-ahead-by-one", "gradient, alpha=self.objective.look_ahead)", "gradient)"),
            ("stays-ahead", "            parameter.copy_(value)\n", "            pass\n"),
            ("old-weights-in-bfloat16", "        torch.clear_autocast_cache()  # which", "        # which"),
            ("one-order-for-all-passes", 'Random(f"unlabelled {number}")', 'Random("unlabelled")'),
            ("same-prompts-every-step", "range(step * self.objective.unlabelled_prompts, (step + 1) * self", "range(0, self"),
            ("shards-are-moved", "if sharding.cuts_weights or sharding.keeps_float32_copies:", "if False:"),
            ("half-precision-vanishes", 'if trainer.precision == "16-mixed":', "if False:"),
            ("one-response-is-compared", "if len(kept) < 2:", "if False:"),
            ("equal-responses-are-two", "texts := dict.fromkeys(record.extra[COLUMN])) < 2", "texts := record.extra[COLUMN]) < 2"),
        ),
    ),
    "prl/pairs/strength.py": (
        "u.preference_strength i.strength_command",
        (
            ("deviation-over-k-less-one", "votes.std(0, correction=0)", "votes.std(0)"),
            ("strongest-are-flipped", "support.argsort(stable=True)", "support.argsort(stable=True, descending=True)"),
            ("ties-are-weak", "(preference != 0.5) & ~mean.isnan()", "~mean.isnan()"),
            ("support-of-chosen-alone", "torch.where(preference > 0.5, mean, -mean).masked", "mean.masked"),
            ("share-of-all-pairs", "int(share * int(counts.sum()))", "int(share * len(mean))"),
            ("votes-for-rejected", "margins.append(chosen - rejected)", "margins.append(rejected - chosen)"),
            ("weights-are-lost", "**labels, **weight, **dict", "**labels, **dict"),
            ("columns-are-written-over", "for name in COLUMNS if name in pair.extra", "for name in COLUMNS if False"),
        ),
    ),
    "prl/cli/commands/strength.py": (
        "i.strength_command",
        (
            ("flips-are-not-written", "torch.where(flips, 1 - labels, labels)", "labels"),
            ("soft-labels-of-the-data", "mean.sigmoid() if options.soft_labels", "labels if options.soft_labels"),
        ),
    ),
    "prl/rewards/token_guide.py": (
        "u.token_guide",
        (
            ("clip-before-the-scale", "rewards = scale * log_ratio\n    return rewards if clip is None else rewards.clamp(-clip, clip)", "return scale * (log_ratio if clip is None else log_ratio.clamp(-clip, clip))"),
            ("clip-from-above-alone", "rewards.clamp(-clip, clip)", "rewards.clamp(max=clip)"),
            ("guide-and-reference-are-turned", "said[0] - said[1]", "said[1] - said[0]"),
            ("guide-reads-hot", "temperature=1.0", "temperature=2.0"),
            ("guide-is-read-without-need", "        if self.scale == 0:\n            return scores\n", ""),
            ("guide-alone-rewards-tokens", "            dense = dense + scores.token_rewards.to(dense.device)\n", "            pass\n"),
            ("damaged-guide-rewards", ".masked_fill(~known, torch.nan)", ""),
            ("damaged-guide-says-nan", "self.clip).masked_fill(~known[:, None], 0)", "self.clip)"),
            ("guide-has-any-tokenizer", "            check_same_ids(source, tokenizer, setting=f\"TokenGuide.{role}\")\n", ""),
            ("guide-has-any-length", "            check_fits(source, tokenizer, length, role=role, setting=setting)\n", ""),
            ("guide-is-read-twice", "        if self.guide is None:\n", "        if True:\n"),
            ("guide-on-the-first-process-alone", "with on_meta_device(False):", "if True:"),
            ("guide-keeps-no-type", "ModelSource(path=path, dtype=self.dtype)", "ModelSource(path=path)"),
        ),
    ),
    "prl/rewards/per_token.py": (
        "u.token_guide",
        (
            ("per-token-source-hides-the-other", "        yield from self.reward.leaves()\n", ""),
            ("per-token-source-hides-itself", "        yield from self.reward.leaves()\n        yield self\n", "        yield from self.reward.leaves()\n"),
            ("validations-ask-about-tokens", "return self.reward.per_response()", "return self"),
            ("ids-of-anybody", "        if self.tokenizer is None:\n", "        if False:\n"),
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
            ("heads-of-a-folder-forgotten", "self.head_weights, self.head_names = head_weights_of(settings), ", "self.head_weights, self.head_names = (1.0,), "),
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
