"""Faults of the update and of the methods that are plugged into it: rewards, advantages, objectives, filters."""

_PPO = "i.ppo_by_hand u.kl u.critic u.actors u.critic_warmup u.health"
_MORE = f"{_PPO} i.ppo_sources i.knobs"

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "lightning_modules/policy_update.py": (
        _MORE,
        (
            ("stop-kl-is-never-passed", "if settings.stop_kl is not None and", "if False and"),
            ("stop-kl-looks-at-the-loss", 'stats.get("approx_kl", 0.0)', 'stats.get("policy_loss", 0.0)'),
            ("update-of-one-epoch-only", "settings.minibatches, settings.epochs)", "settings.minibatches, 1)"),
            ("warm-up-trains-the-policy", "if self.warmup.is_active(self.batches_done()):", "if False:"),
            ("warm-up-never-observes", 'extra.get("value/explained_var", 0.0))', "-1e9)"),
            ("gradients-are-not-clipped", "self.parameters(), settings.max_grad_norm)", "self.parameters(), 1e9)"),
            (
                "schedule-stands-still",
                "            self.lr_schedulers().step()  # type: ignore[union-attr]\n        first",
                "        first",
            ),
            ("losses-weigh-all-rows-alike", "token_weights(mask, settings", "token_weights(~mask, settings"),
            ("first-ratio-is-the-last", 'history[0]["ratio_mean"]}', 'history[-1]["ratio_mean"]}'),
            (
                "steps-that-are-not-finite-are-taken",
                "if allowed := self.health.allows_step(found):",
                "allowed = self.health.allows_step(found)\n        if True:",
            ),
            (
                "explained-variance-of-the-scores",
                "explained_variance(experience.values, experience.returns,",
                "explained_variance(experience.values, experience.old_logprobs,",
            ),
            ("kl-of-the-loss-is-the-first-coefficient", "kl_coef=self.kl.coef,", "kl_coef=self.kl_penalty.coef,"),
        ),
    ),
    "prl/rollouts/server.py": (
        "u.rollout_server i.rollout_server",
        (("server-keeps-the-first-policy", "self._served = policy.version\n", "self._served = 10**9\n"),),
    ),
    "prl/rollouts/self_refine.py": (
        "u.self_refine",
        (
            ("unmet-criteria-are-not-told", "self.instruction + unmet}", "self.instruction}"),
            ("best-of-missing-rewards", "if each.reward == each.reward]", "]"),
            ("best-is-the-first-of-equals", "(each.reward, each.share)", "each.reward"),
            ("too-long-prompts-are-read", "if len(written) > self.max_prompt_length:", "if False:"),
            ("all-are-guided", "masked_scatter(last, refined)", "masked_fill(last, True)"),
            ("draws-stand-in-their-own-order", "torch.cat(parts)[order]", "torch.cat(parts)"),
            ("single-responses-are-refined", "and count[n] > 1 for row", "for row"),
            ("what-is-complete-is-refined", "if critique is not None and critique.failed:", "if critique is not None:"),
        ),
    ),
    "prl/rl/phase_timer.py": (
        "u.phase_timer",
        (
            ("inner-phases-count-twice", "passed - self._inside", "passed"),
            ("second-inner-phase-alone-is-taken", "self._inside = before + passed", "self._inside = passed"),
        ),
    ),
    "prl/rl/minibatch.py": (
        f"u.minibatch u.policy_losses u.distributed {_PPO}",
        (
            ("prompts-are-cut", "group.cpu().argsort(stable=True)", "torch.arange(len(group))"),
            ("token-counts-of-one-micro-batch", "torch.cat(groups).to", "groups[0].to"),
            ("row-counts-with-empty-rows", "(mask[rows].any(1) * wide).sum()", "wide.sum()"),
            ("counts-without-weights", "(mask[rows].sum(1) * wide).sum()", "mask[rows].sum()"),
        ),
    ),
    "prl/rl/experience.py": (
        f"u.experience {_MORE}",
        (
            ("kl-in-reward-and-loss", 'kl_coef if kl.placement == "reward" else 0.0', "kl_coef"),
            ("last-filter-decides", "weights = weights * found.to(weights)", "weights = found.to(weights)"),
            ("dense-rewards-forgotten", "        scores.token_rewards,\n", "        None,\n"),
        ),
    ),
    "prl/rl/minibatch_loss.py": (
        f"u.policy_losses p.design_numbers p.trl_losses {_PPO}",
        (
            ("value-coef-one", "critic.value_coef * value_loss", "value_loss"),
            ("kl-loss-without-its-coefficient", "kl_coef * (per_token * weights).sum()", "(per_token * weights).sum()"),
            ("row-weights-forgotten", "weighted = mask * row_weights[:, None]", "weighted = mask * 1.0"),
        ),
    ),
    "prl/advantages/gae.py": (
        f"u.experience {_MORE}",
        (
            ("whitened-always", "if self.whiten else advantages", ""),
            ("gamma-one", '"gamma": self.gamma', '"gamma": 1.0'),
            ("lengths-change-the-critic", "if alpha is not None and self.critic_lambda is None", "if False"),
        ),
    ),
    "prl/advantages/base.py": (
        "u.experience",
        (
            (
                "kl-is-a-bonus",
                "total = total - self.kl_coef * kl.masked_fill",
                "total = total + self.kl_coef * kl.masked_fill",
            ),
            ("reward-on-the-first-token", "(self.mask * (places + 1)).argmax(1", "(self.mask * (places + 1)).argmin(1"),
        ),
    ),
    "prl/advantages/leave_one_out.py": (
        "u.leave_one_out",
        (
            ("left-in-after-all", "(sums - total) / others", "sums / others"),
            ("missing-rewards-are-zeros", "weights=total * counted", "weights=total"),
            ("one-alone-keeps-its-reward", "torch.where(others > 0,", "torch.where(others >= 0,"),
        ),
    ),
    "prl/advantages/ngrpo.py": (
        "u.ngrpo",
        (
            ("virtual-is-only-counted", "+ self.virtual * self.max_reward", ""),
            ("virtual-has-no-deviation", "squares + self.virtual * (", "squares + 0 * ("),
            ("virtual-deviation-is-biased", "/ (counts - 1)", "/ counts"),
            ("virtual-counts-missing-ones", "weights=centred.square() * counted", "weights=centred.square()"),
        ),
    ),
    "prl/advantages/pairwise_matrix.py": (
        "u.pairwise_matrix",
        (
            ("matrix-ignores-the-kl", "+ beside[first] - beside[second]", ""),
            ("responses-meet-themselves", "number + (number >= place[index]).long()", "number"),
            ("left-out-ones-are-compared", "(counted[first] & counted[second])", "counted[first]"),
            ("matrix-epsilon-not-times-the-number", "+ number * self.epsilon", "+ self.epsilon"),
            ("matrix-deviation-of-all-pairs-once", "number / (2 * (number - 1)", "number / (1 * (number - 1)"),
            ("failed-comparisons-are-numbers", ".nan_to_num(0.0) + beside", ".nan_to_num(1.0) + beside"),
            ("strength-is-a-probability", "verdict.win_prob - 0.5 if", "verdict.win_prob if"),
        ),
    ),
    "prl/advantages/brpo.py": (
        "u.brpo",
        (
            ("wins-are-not-held-against-parity", "(rewards.rewards - self.parity)", "rewards.rewards"),
            ("brpo-ignores-the-kl", ".sign() + beside", ".sign()"),
            ("kl-mean-counts-what-is-left-out", "weights=counted.to(wide))", "weights=torch.ones_like(beside))"),
        ),
    ),
    "prl/anchors/group_reference.py": (
        "u.group_reference",
        (
            (
                "reference-is-always-the-first",
                "responses[number * per_prompt + drawn]",
                "responses[number * per_prompt]",
            ),
            ("reference-of-the-first-prompt", "responses[number * per_prompt + drawn]", "responses[drawn]"),
            ("reference-is-not-stripped", "+ drawn].strip(),)", "+ drawn],)"),
        ),
    ),
    "prl/rollouts/filters/skewed_groups.py": (
        "u.filters",
        (
            ("limit-of-skew-is-left-out", "self.max_skew * rewarded + 1e-6", "self.max_skew * rewarded - 1e-6"),
            ("skew-counts-missing-rewards", "weights=(~scores.failed).float()", "weights=torch.ones_like(won)"),
            ("skew-of-wins-alone", "weights=won).abs()", "weights=won)"),
        ),
    ),
    "prl/advantages/difficulty_scaled.py": (
        "u.difficulty_scaled",
        (
            ("hardness-of-one-process", "gathered([of_prompt[group] for group in present])", "[of_prompt]"),
            ("gaps-of-one-process", "in gathered(gaps)", "in [gaps]"),
            ("behind-is-ahead", "behind = -mean_per_row", "behind = mean_per_row"),
            ("outliers-are-kept", "<= self.outlier * std] or own", "<= 1e9 * std] or own"),
            ("outliers-alone-are-left-out", "self.outlier * std] or own", "self.outlier * std]"),
            ("gaps-of-what-does-not-count", "behind.masked_fill(~counted, torch.nan)", "behind"),
            ("truth-values-are-numbers", "isinstance(value, bool) or not", "not"),
        ),
    ),
    "lightning_modules/dashboards.py": (
        "u.dashboards",
        (("histograms-of-nothing", "if values.numel():", "if True:"),),
    ),
    "prl/objectives/policy/ppo.py": (
        f"u.policy_losses p.trl_losses {_PPO}",
        (
            ("entropy-is-punished", "policy_loss - self.entropy_coef", "policy_loss + self.entropy_coef"),
            (
                "low-clips-counted-everywhere",
                "(ratio < 1 - self.clip_range) & (advantages < 0)",
                "ratio < 1 - self.clip_range",
            ),
        ),
    ),
    "prl/rollouts/filters/policy_filtration.py": (
        "u.filters",
        (
            ("filtration-keeps-the-worst", "argsort(descending=True, stable=True)", "argsort(stable=True)"),
            ("filtration-keeps-failed-rewards", "& ~rewards.isnan())", ")"),
            ("filtration-draws-the-best-again", "torch.randint(1, len(order), ())", "torch.randint(0, len(order), ())"),
        ),
    ),
    "prl/objectives/policy/statistics.py": (
        f"u.policy_losses u.every_policy_objective {_PPO}",
        (("kl-without-its-curve", "difference.expm1() - difference", "difference.expm1()"),),
    ),
    "prl/objectives/policy/responses.py": (
        "u.p3o u.drpo u.trpa u.gpo u.every_policy_objective u.every_method",
        (
            (
                "a-response-is-its-first-place",
                "first = mask.int().argmax(1, keepdim=True)",
                "first = 0 * mask.int().argmax(1, keepdim=True)",
            ),
            (
                "other-prompts-are-compared",
                "(group[:, None] == group) & counted",
                "(group[:, None] >= group) & counted",
            ),
            ("what-does-not-count-is-compared", "counted[:, None] & counted", "counted[:, None]"),
            (
                "prompts-weigh-by-their-first-token",
                ".index_add(0, numbers, weights.sum(1))",
                ".index_add(0, numbers, weights[:, 0])",
            ),
            ("sums-beyond-the-mask", "return values.masked_fill(~mask, 0).sum(1)", "return values.sum(1)"),
        ),
    ),
    "prl/objectives/policy/p3o.py": (
        "u.p3o u.every_policy_objective",
        (
            ("p3o-whole-difference", "(advantages[:, None] - advantages) / 2", "advantages[:, None] - advantages"),
            ("p3o-takes-the-better-side", "torch.minimum(gain * lead", "torch.maximum(gain * lead"),
            ("p3o-pairs-are-summed", "(of_prompt / count.clamp(min=1))[numbers]", "of_prompt[numbers]"),
        ),
    ),
    "prl/objectives/policy/drpo.py": (
        "u.drpo u.every_policy_objective",
        (
            ("drpo-likes-long-answers", "(1 - length) / self.length_temperature", "length / self.length_temperature"),
            ("drpo-sums-wrong-answers", ".logsumexp(1) - count.log()", ".logsumexp(1)"),
            ("drpo-one-sided-prompts-learn", "torch.where(right & whole, among", "torch.where(right, among"),
            ("drpo-factor-learns", ".clamp(min=0).detach() * kl", ".clamp(min=0) * kl"),
            ("drpo-counts-what-does-not", "> self.threshold) & experience.counted", "> self.threshold)"),
        ),
    ),
    "prl/objectives/policy/trpa.py": (
        "u.trpa u.every_policy_objective",
        (
            ("trpa-the-other-kl", "((-difference).expm1() + difference)", "(difference.expm1() - difference)"),
            (
                "trpa-all-pairs-count-more",
                "torch.where(right, self.anisotropy, 1.0)",
                "torch.where(right, self.anisotropy, self.anisotropy)",
            ),
            ("trpa-equal-rewards-are-pairs", "(rewards[:, None] > rewards)", "(rewards[:, None] >= rewards)"),
            ("trpa-lowers-right-answers", "torch.where(right, -ratios, ratios)", "torch.where(right, ratios, -ratios)"),
        ),
    ),
    "prl/objectives/policy/rgr_grpo.py": (
        "u.rgr_grpo u.every_policy_objective",
        (
            ("denominators-are-exchanged", 'if self.denominator == "policy" else', 'if self.denominator == "old" else'),
            ("gamma-stands-in-the-numerator", "return p / (", "return (p + self.gamma) / ("),
            ("all-but-the-guided-are-shaped", "torch.where(guided[:, None],", "torch.where(~guided[:, None],"),
            ("guided-loss-is-turned", "(-experience.advantages * factor", "(experience.advantages * factor"),
        ),
    ),
    "prl/objectives/policy/gpo.py": (
        "u.gpo u.every_policy_objective",
        (("gpo-multiplies-by-beta", "advantages / self.beta", "advantages * self.beta"),),
    ),
    "prl/rewards/shapers/verdicts.py": (
        "u.shapers p.design_numbers",
        (("centred-is-not", "verdict.win_prob - 0.5", "verdict.win_prob"),),
    ),
    "prl/rewards/shapers/missing_eos.py": (
        f"u.shapers u.shaping {_MORE}",
        (
            (
                "finished-lose-the-end",
                "cut = scores.rewards, ~rollout.finished",
                "cut = scores.rewards, rollout.finished",
            ),
        ),
    ),
    "prl/rewards/shapers/overlong.py": (
        f"u.shapers {_PPO}",
        (("overlong-is-a-bonus", "scores.rewards - self.penalty", "scores.rewards + self.penalty"),),
    ),
    "prl/rewards/shapers/running.py": (
        "u.running",
        (
            ("running-deviation-of-batches-alone", "+ ahead**2 * self.count * number / total", ""),
            ("running-mean-of-equal-batches", "self.mean += ahead * number / total", "self.mean += ahead / 2"),
            ("running-statistics-of-one-process", "gathered(scores.rewards.tolist())", "[scores.rewards.tolist()]"),
            ("running-sums-depend-on-the-order", "math.fsum(rewards) / len", "sum(rewards) / len"),
            ("infinite-rewards-are-statistics", "if math.isfinite(each)])", "if each == each])"),
            ("running-state-starts-anew", "vars(self).update(state)", "vars(self).update({})"),
        ),
    ),
    "prl/rewards/shapers/ceiling.py": (
        "u.centred",
        (
            ("ceiling-is-a-floor", "clamp(self.floor, self.limit)", "clamp(min=self.limit)"),
            ("ceiling-without-a-floor", "clamp(self.floor, self.limit)", "clamp(max=self.limit)"),
        ),
    ),
    "prl/rewards/shapers/centred.py": (
        "u.centred",
        (
            ("shift-the-other-way", "verdict.win_logit - self.shift", "verdict.win_logit + self.shift"),
            ("polynomial-has-no-ends", "torch.where(difference >= 5, 1.0, value)", "value"),
            ("polynomial-of-degree-three", "torch.arange(6)", "torch.arange(4)"),
        ),
    ),
    "prl/rewards/shapers/log_sigmoid_centred.py": (
        "u.centred",
        (
            ("lsc-deviation-is-biased", "(number - 1).clamp(min=1)", "number.clamp(min=1)"),
            ("lsc-percentile-from-below", "above = mean - NormalDist", "above = mean + NormalDist"),
            ("lsc-counts-failed-references", "rows[~difference.isnan()].bincount", "rows.bincount"),
        ),
    ),
    "prl/rewards/shapers/top_group_length.py": (
        "u.top_group_length",
        (
            ("prompts-are-ranked-apart", "gathered(shares)", "[shares]"),
            ("one-prompt-at-least", "math.floor(self.fraction", "math.ceil(self.fraction"),
            ("shares-are-rounded-down", "len(ranked) + 1e-9", "len(ranked)"),
            ("worst-answered-first", "(-share, process, n)", "(share, process, n)"),
            ("wrong-ones-are-in-the-mean", "lengths * correct", "lengths * 1.0"),
            ("wrong-ones-are-shaped", "shaped = correct &", "shaped = (correct | True) &"),
            ("missing-rewards-are-wrong", "(number / rewarded)", "(number / torch.bincount(group))"),
        ),
    ),
    "prl/rewards/gated.py": (
        "u.gated",
        (
            ("shapers-read-past-the-gate", "if name not in gates)", "if name)"),
            ("gate-is-not-looked-at", "parts[gate] * parts[name]", "parts[name]"),
            (
                "closed-gates-need-what-they-gate",
                "torch.where(parts[gate] == 0, 0.0, ",
                "torch.where(parts[gate] == 2, 0.0, ",
            ),
            ("gates-of-gates", "set(gates) & set(gates.values())", "set()"),
        ),
    ),
    "prl/rewards/rubric.py": (
        "u.rubric u.self_refine",
        (
            ("no-facts-are-all-facts", "if facts and all(facts) else rubric", "if all(facts) else rubric"),
            ("one-fact-is-enough", "if facts and all(facts) else rubric", "if any(facts) else rubric"),
            (
                "criteria-weigh-alike",
                "sum(weight * grade for weight, grade in counted) / total",
                "sum(grade for _, grade in counted) / len(counted)",
            ),
            ("missing-grades-are-looked-over", "if any(map(math.isnan, grades)):", "if all(map(math.isnan, grades)):"),
            (
                "rows-share-criteria",
                "batch.prompts[row], text, extra], sort_keys",
                "batch.prompts[row], text], sort_keys",
            ),
            ("any-truth-is-a-grade", "if isinstance(found, bool):", "if found is not None:"),
            ("grades-are-kept-for-ever", "self._known = {}  #", "pass  #"),
            ("missing-grades-are-kept", "in grades.items() if not any(map(math.isnan, each))}", "in grades.items()}"),
            ("anchors-are-logged", "for each in said[0]]).to", "for each in said[-1]]).to"),
        ),
    ),
    "prl/quickstart/rubric.py": (
        "u.quickstart_rubric",
        (
            ("places-count-from-nothing", "response[int(place) - 1 :]", "response[int(place) :]"),
            ("other-kinds-do-not-hold", "    return None\n\n\ndef write", "    return False\n\n\ndef write"),
            ("criteria-are-found-inside-others", "re.fullmatch(pattern, criterion)", "re.match(pattern, criterion)"),
        ),
    ),
    "prl/judge/endpoint_rubric.py": (
        "u.endpoint_rubric",
        (
            ("marks-are-sent", 'return _MARK.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text)', "return text"),
            (
                "keys-given-twice-are-one",
                "object_pairs_hook=tuple)",
                "object_pairs_hook=lambda pairs: tuple(dict(pairs).items()))",
            ),
            ("answers-with-more-are-read", "_FENCED.fullmatch(answer)", "_FENCED.search(answer)"),
            ("numbers-are-truth", "if not isinstance(found[key], bool)]", "if not isinstance(found[key], int)]"),
            ("lists-are-objects", "if not isinstance(pairs, tuple) or", "if not isinstance(pairs, tuple | list) or"),
            (
                "criteria-share-a-request",
                'if self.calls == "each" else [question.criteria]',
                "if False else [question.criteria]",
            ),
        ),
    ),
    "prl/judge/generative_rubric.py": (
        "u.generative_rubric",
        (
            ("no-is-yes", "(margins > 0).float()", "(margins < 0).float()"),
            ("damage-is-a-no", ".where(~margins.isnan(), torch.nan)", ""),
            ("criteria-are-read-as-responses", "row[0] for row in rows if row", "row[1] for row in rows if row"),
        ),
    ),
    "prl/rewards/shapers/implicit_gradient.py": (
        "u.implicit_gradient",
        (
            ("series-of-the-hessian", "term - step * product(term)", "term + step * product(term)"),
            ("series-without-its-scale", "return step * total", "return total"),
            ("series-of-one-term-more", "range(terms - 1)", "range(terms + 1)"),
            ("hessian-of-the-other-sign", "return -torch.autograd.grad(slope", "return torch.autograd.grad(slope"),
        ),
    ),
    "prl/rewards/shapers/learned_mix.py": (
        "u.learned_mix",
        (
            ("phi-of-one-process", "gathered(self._gradients(scores, rollout))", "[self._gradients(scores, rollout)]"),
            ("phi-falls-below-0", "max(0.0, weight + self", "(weight + self"),
            ("decay-is-a-growth", "- self.decay * weight", "+ self.decay * weight"),
            ("decay-without-prompts", "if self.prompts:\n", "if True:\n"),
            ("equal-prompts-are-averaged", "unique()) > 1]", "unique()) > 0]"),
            ("phi-steps-early", "if self.waited < self.every:", "if self.waited < 0:"),
            ("optimum-without-beta", "optimum = rewards @ phi / self.beta", "optimum = rewards @ phi"),
            ("infinite-rewards-teach", "rewards.isfinite().all(1)", "rewards.isfinite().any(1)"),
            ("outer-is-the-mix", "theta.softmax(0) @ true", "theta.softmax(0) @ (rewards @ phi)"),
            ("learnt-weights-are-not-used", "self.weights[name] * each for", "1.0 * each for"),
            (
                "waiting-is-forgotten",
                "else each for name, each in state.items()",
                "else 0 for name, each in state.items()",
            ),
            ("state-is-shared", '"weights": dict(self.weights),', '"weights": self.weights,'),
            ("failed-responses-are-rewarded", "scores.failed, torch.nan)", "scores.failed, 0.0)"),
        ),
    ),
    "prl/rewards/weighted.py": (
        "u.running u.gated u.reward_sources u.self_referee u.token_guide",
        (
            ("sources-keep-states", 'hasattr(each, "load_state_dict")', "False"),
            ("sums-forget-what-is-left-out", "left_out=left_out", "left_out=None"),
            ("sums-drop-rewards-of-tokens", "if each.rewards_tokens:", "if False:"),
        ),
    ),
    "prl/judge/referee_prompt.py": (
        "u.referee_prompt",
        (
            ("tau-divides-by-untied-pairs", "/ len(pairs)\n", "/ sum(gold[i] != gold[j] for i, j in pairs)\n"),
            (
                "tau-of-neighbours",
                "list(combinations(range(len(gold)), 2))",
                "[(i, i + 1) for i in range(len(gold) - 1)]",
            ),
            ("scores-of-any-line", "lines[-1]", "lines[0]"),
            ("scores-beyond-the-scale", "max(scores) <= scale[1]", "True"),
            ("scores-below-the-scale", "scale[0] <= min(scores)", "True"),
            ("any-number-of-scores", "len(words) != count or ", ""),
            ("responses-as-they-come", "Random(hash", "0 and Random(hash"),
            ("order-follows-the-rows", "key=lambda number: responses[number]", "key=None"),
            ("seed-is-not-looked-at", "order], seed])", "order]])"),
            ("perfect-scores-are-turned-round", "scale[0] + step *", "scale[1] - step *"),
        ),
    ),
    "prl/judge/self_referee.py": (
        "u.self_referee",
        (
            ("open-rows-are-verified", '"open" if row.get(self.verifiable) is None', '"open" if False'),
            ("warmup-in-validations", "waits = in_groups and", "waits = True and"),
            ("warmup-ends-late", "self._policy.version < self.warmup", "self._policy.version <= self.warmup"),
            ("warmup-is-a-failure", "left_out=left_out)", "left_out=None)"),
            ("anchors-are-shown-in-training", "        if in_groups:\n", "        if False:\n"),
            ("referees-draw-anew", "with forked(seed=asked):", "if asked >= 0:"),
            ("only-who-asks-samples", "any(gathered(bool(rows)))", "rows"),
            ("scores-as-written", "(score - lowest) / (highest - lowest)", "score"),
            ("scores-in-another-order", "zip(texts, of_scale", "zip(sorted(texts), of_scale"),
            ("thoughts-are-scores", "without_thoughts(answer, opened=opens)", "answer"),
            ("cut-at-any-length", "if len(ids) <= policy.max_prompt_length", "if len(ids) <= 10**6"),
            (
                "another-instruction",
                "referee_prompt(prompt, texts, self.instruction",
                "referee_prompt(prompt, texts, 'x'",
            ),
            ("unreadable-is-a-failure", "self.unreadable if scores is None", "torch.nan if scores is None"),
            ("one-rank-for-all", "len({*numbers}) < 2", "not numbers"),
        ),
    ),
    "prl/rewards/shapers/base.py": (
        "u.shaping",
        (("only-the-first-shaper-counts", "        scores = shaped\n", "        return shaped\n"),),
    ),
    "prl/advantages/thought_level.py": (
        "u.thought_level",
        (
            ("thoughts-go-on-in-the-next-response", "(rows[1:] != rows[:-1]) | (told", "(told"),
            ("each-token-is-a-thought", "begins[1:] = (rows[1:] != rows[:-1]) | (told[1:] != told[:-1])", "pass"),
            ("detours-cost-all", "torch.where(correct, share, 1.0)", "torch.where(correct, 1.0, 1.0)"),
            ("wrong-responses-cost-little", "torch.where(correct, share, 1.0)", "share"),
            (
                "share-of-all-prompts",
                "chosen.to(wide)) / number)[group]",
                "chosen.to(wide)).sum() / number.sum()) + 0 * group",
            ),
            ("any-reward-is-correct", "> self.correct_above)", "> 0.5)"),
            ("unmarked-tokens-are-wrong", "[found.row], *how).masked_fill(~marked, 0)", "[found.row], *how)"),
            (
                "unmarked-tokens-are-in-the-mean",
                "level = group_normalized(reward, marked,",
                "level = group_normalized(reward, marked | True,",
            ),
            ("thoughts-of-all-prompts", "group[found.row], *how", "0 * found.row, *how"),
            ("thoughts-alone", "Advantages(plain + added, None)", "Advantages(added, None)"),
            ("weight-of-one", "(self.eta * level)", "(level)"),
        ),
    ),
    "prl/advantages/group.py": (
        "u.thought_level u.group",
        (("equal-values-are-nan", "scale.where(scale > 0, 1.0)[group]", "scale[group]"),),
    ),
    "prl/rewards/step_marks.py": (
        "u.step_marks",
        (
            (
                "marks-on-other-tokens",
                "marks[row, own.cpu()] =",
                "marks[row, : int(own.sum())] =",
            ),
            ("first-mark-for-all", "each[split[row][0]]", "each[[0] * len(split[row][0])]"),
            ("failed-responses-are-marked", "if not failed]", "if True]"),
            ("missing-marks-are-not-counted", "float(found is None)", "0.0"),
            (
                "an-early-end-is-right",
                "[int(text == answer) for text in texts[-1:]]",
                "[int(answer.startswith(text)) for text in texts[-1:]]",
            ),
            ("rules-say-anything", "or not all(each in (0, 1, None) for each in given):", "or False:"),
            ("rules-mark-some-steps", "len(given) != len(solution.steps)", "False"),
            ("rules-see-no-anchors", '{"anchors": list(rollout.batch.anchors[row]), **extras[row]}', "{**extras[row]}"),
            (
                "end-is-a-step",
                "max(count - 1, 0) for count in accumulate(map(int, shown))",
                "n for n, _ in enumerate(shown)",
            ),
            (
                "reasons-are-lost",
                "filter(None, (super().failure(), self._failure))",
                "filter(None, (super().failure(),))",
            ),
        ),
    ),
    "prl/judge/thought_process.py": (
        "u.thought_process_judge",
        (
            ("first-list-counts", 'findall("[01]", lists[-1])', 'findall("[01]", lists[0])'),
            ("any-number-of-marks", "    if len(found) != steps:\n", "    if False:\n"),
            ("cut-answers-count", 'if choice.get("finish_reason") == "length":', "if False:"),
            ("all-solutions-are-right", "solution.reward > self.correct_above,", "True,"),
            ("answers-are-hidden", "solution.row.get(self.answer)", "None"),
            ("judge-is-not-tried", "if self._mark(_PROBE, latest()) is None:", "if False:"),
            ("templates-leave-out-steps", "[each for each in shown if each not in rendered]", "[]"),
        ),
    ),
    "prl/rollouts/filters/equal_groups.py": (
        "u.filters",
        (
            (
                "missing-rewards-are-a-difference",
                "index = group[known]",
                "known = known | True\n        index = group[known]",
            ),
        ),
    ),
}
