"""Faults of policies that learn from preference pairs: the stage, its reference and cache, and its objectives."""

_STAGE = "u.preference_module i.preference i.extending"
_OBJECTIVES = "u.dpo u.evaluate u.preference_socket u.every_method u.every_objective"
_GUIDED = "u.tgdpo u.modpo u.evaluate u.preference_socket"

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "lightning_modules/preference.py": (
        _STAGE,
        (
            ("pairs-are-never-packed", 'PrefixSharing(packed, "packed")', 'PrefixSharing("off", "packed")'),
            ("guides-with-ids-of-their-own", '            check_same_ids(source, tokenizer, setting=f"guides.{name}")\n', "            pass\n"),
            ("heads-learn-nothing", "+ list(self.heads.parameters())", ""),
            ("a-critic-at-the-policys-rate", "**({} if critic is None else {", "**({} if True else {"),
            ("drift-forgotten-on-resume", '        self.run_state.register("drift", self.drift)\n', ""),
            ("state-of-the-objective-forgotten", "        self.run_state.register_methods(objective=objective)\n", ""),
        ),
    ),
    "lightning_modules/pair_training.py": (
        _STAGE,
        (
            ("preference-pairs-count-alike", "weighted_mean(losses, weights,", "weighted_mean(losses, torch.ones_like(weights),"),
            ("preference-validation-without-weights", "(columns[0] * weights).sum() / weights.sum()", "columns[0].mean()"),
            ("ties-count-as-right-or-wrong", "agreement(margin, target) * counted, counted", "agreement(margin, target), counted >= 0"),
            ("validation-margin-away-from-the-label", "((2 * target - 1) * margin).mean()", "margin.mean()"),
            ("training-margin-away-from-the-label", '((2 * pairs.target - 1) * found["margin"]).mean()', 'found["margin"].mean()'),
            ("a-mean-passes-for-losses", "if tuple(losses.shape) != (len(pairs),):", "if False:"),
            ("drift-of-the-rewards", "responses.log_ratio() if has_reference", 'found[f"rewards/{name}"] if has_reference'),
        ),
    ),
    "lightning_modules/preference_scoring.py": (
        _STAGE + " u.preference_states",
        (
            ("values-of-the-prompt", "values[loss_mask[:, 1:]], mask", "values[loss_mask[:, :-1]], mask"),
            ("values-behind-the-end", "self.critic(hidden).masked_fill(~mask, 0)", "self.critic(hidden)"),
            ("kl-to-itself", "heads[1], reference[1], mask)", "heads[0], hidden, mask)"),
            ("a-critic-that-begins-as-the-policy", "build_critic(kept, self.model, self.critic_source)", "build_critic(kept, self.model, self.source)"),
            ("adapters-of-a-critic-are-not-read", 'self.critic_settings.kind == "adapter":', "False:"),
            ("reference-read-without-need", "if self.objective.needs_reference and (self.reference", "if (self.reference"),
            ("start-in-place-of-the-given-reference", "load_causal_lm(self.reference_source or self.source)", "load_causal_lm(self.source)"),
            ("validation-reads-the-cache-of-training", 'else "validation"\n', 'else "train"\n'),
            ("cache-is-never-read", 'if (name, side) in self._cached and "index" in batch:', "if False:"),
            ("cached-reference-stays-in-memory", "        self.reference = None\n        self.guides", "        self.guides"),
            ("cached-guides-stay-in-memory", "        self.guides.clear()\n", ""),
            ("guides-are-the-reference", "dict(self.guides).get(name)", "self.reference"),
            ("guides-are-no-inputs", 'found |= model_inputs(f"model.guides.{name}", source)', "pass"),
            ("guides-learn", "guide = freeze(load_causal_lm(source))", "guide = load_causal_lm(source)"),
            ("cached-under-another-precision", "as model, trainer.precision_plugin.forward_context():", "as model:"),
            ("rejected-is-scores_from_values-as-chosen", "rows, start = slice(start, start + size), start + size", "rows = slice(0, size)"),
            ("lists-as-if-all-were-as-long", "responses.of_lists(batch[COUNT + name]) if name in lists else responses", "responses"),
            ("preference-labels-are-sure", 'batch["targets"], numbers_of(', 'torch.ones_like(batch["targets"]), numbers_of('),
            ("a-dry-run-fills-the-cache", "or is_dry_run(self.trainer):", "or False:"),
        ),
    ),
    "lightning_modules/preference_checks.py": (
        _STAGE,
        (
            ("a-critic-of-no-use-is-taken", "if critic is not None:\n            raise", "if False:\n            raise"),
            ("a-critic-with-settings-of-ppo", "!= getattr(CriticSettings(), setting):", "is None:"),
            ("kl-from-a-cache", 'elif objective.needs_kl and how == "cached":', "elif False:"),
            ("objective-takes-a-label", "(*PreferencePair.columns, *_OF_ROWS)", "_OF_ROWS"),
            ("reference-of-no-use-is-taken", "for setting in [setting for setting, is_given in given.items() if is_given]:", "for setting in []:"),
            ("revisions-that-quote-nothing", "if objective.revisions and not all(", "if False and not all("),
            ("a-missing-guide-passes", "if missing := [each for each in declared if each not in guides]:", "if missing := []:"),
            ("a-guide-of-no-use-is-taken", "if unknown := [each for each in guides if each not in declared]:", "if unknown := []:"),
        ),
    ),
    "lightning_modules/reference.py": (
        _STAGE,
        (
            ("cache-for-any-weights", "settings_hash(files, computed,", "settings_hash(computed,"),
            ("cache-for-any-packing", 'f"{precision} {sharing.mode}"', "precision"),
            ("cache-for-any-precision", "source.attn_implementation, how,", "source.attn_implementation,"),
            ("cache-for-any-rows", "versions, _hash_of_ids(rows, encoder))", "versions)"),
        ),
    ),
    "lightning_modules/reference_passes.py": (
        "u.reference_passes u.preference_module i.preference",
        (
            ("reference-reads-padding-of-other-pairs", "[batch[name][rows, : max(widths[n] for n in rows)] for", "[batch[name][rows] for"),
            ("reference-pass-of-any-number-of-pairs", "* (size - len(pairs))\n    columns", "* 0\n    columns"),
            ("reference-head-reads-what-there-is", "(1, 0, None) if shape is None else (shape.pairs, shape.width, HEAD_TOKENS)", "(1, 0, None) if shape is None else (shape.pairs, shape.width, None)"),
            ("reference-relies-on-every-shape", "tried[shape] = _is_steady(model, shape, device)", "tried[shape] = True"),
            ("reference-trees-as-wide-as-their-company", "readings_of(ids, attention), 0, width)", "readings_of(ids, attention), 0)"),
            ("reference-pass-without-padding", "width = length + _step(length) - length % _step(length)", "width = length + -length % _step(length)"),
            ("reference-pass-past-the-last-position", "size < 2 or (positions is not None and width > positions)", "size < 2"),
            ("cut-reference-with-passes-of-its-own", "    if sharding.cuts_weights:\n        passes =", "    if False:\n        passes ="),
            ("cut-reference-tries-alone", "needed = set().union(*gathered(needed))", "pass"),
        ),
    ),
    "lightning_modules/drift.py": (
        "u.drift",
        (
            ("drift-is-told-at-every-batch", "        self._has_warned = True\n", ""),
            ("drift-of-rounding-is-told", "-max(2 * error, SMALL)", "-2 * error"),
            ("drift-within-its-noise-is-told", "-max(2 * error, SMALL)", "-SMALL"),
            ("drift-starts-at-one-batch", "len(self._first) < START", "len(self._first) < 1"),
        ),
    ),
    "lightning_modules/estimates.py": (
        "i.estimate",
        (
            ("cached-reference-lasts", 'if module.reference_logprobs == "cached":', "if False:"),
            ("guides-of-a-cache-are-read-alone", "sum(one.weights for one in kept)", "each.weights"),
            ("policy-reads-one-response-of-a-pair", "_train_both(policy, critic, kind, rows * views, length)", "_train_both(policy, critic, kind, rows, length)"),
            ("critics-take-no-memory", "cut += [] if critic is None else [", "cut += [] if True else ["),
            ("heads-take-no-memory", "for name, outputs in reads.heads.items()}", "for name, outputs in ()}"),
            ("guides-of-tokens-read-their-positions", "    if isinstance(source, TokenGuide):\n        return", "    if False:\n        return"),
            ("guides-of-tokens-are-sharded", '(sharded if hasattr(source, "model") else whole)', "sharded"),
            ("plain-judges-read-all-their-positions", "return settings if own is None else {**settings, \"max_length\": own}", "return settings"),
            ("masks-of-trees-are-free", "train = max(train, working_memory(policy, partial(_train, policy, rows, tree, trees=True)))", "pass"),
        ),
    ),
    "prl/data/preference_encoding.py": (
        "u.preference_encoding",
        (
            ("each-response-keeps-its-own-prompt", "return min(prompts, key=len), responses", "return prompts[0], responses"),
            ("identical-responses-are-a-pair", 'if responses["chosen"] == responses["rejected"]:', "if False:"),
            ("rows-for-any-objective", "settings_hash(super().fingerprint, self.views, self.columns, *further)", "super().fingerprint"),
            ("lists-are-cut-without-their-pair", "                return None\n            prompts += [ids", "                continue\n            prompts += [ids"),
            ("lists-of-any-objective", "(self.probabilities, self.lists, revised, self.classes) if each", "(self.probabilities, revised, self.classes) if each"),
            ("classes-of-any-objective", "(self.probabilities, self.lists, revised, self.classes) if each", "(self.probabilities, self.lists, revised) if each"),
            ("revisions-quote-themselves", "revision_turns(prompt, texts[quoted][0], ", "revision_turns(prompt, texts[response][0], "),
            ("revisions-of-any-template", "revised = [self.revisions, self.revision_prompt]", "revised = [self.revisions]"),
            ("revisions-behind-the-plain-prompt", "quoting = {name: PROMPT + quoted for", 'quoting = {name: "prompt" for'),
            ("loss-on-the-prompt", "mask & (torch.arange(ids.shape[1]) >= starts[:, None])", "mask"),
            ("steps-from-the-start-of-the-prompt", "[0] * len(prompt) + found for", "found + [0] * len(prompt) for"),
        ),
    ),
    "prl/data/revisions.py": (
        "u.preference_encoding",
        (("quotes-are-filled-in-again", 'asked = re.sub(r"\\{(prompt|response)\\}", lambda place: about[place[1]], template)', "asked = template.replace('{prompt}', about['prompt']).replace('{response}', about['response'])"),),
    ),
    "prl/data/steps.py": (
        "u.steps",
        (
            ("separators-in-a-row-are-steps", "(?:{re.escape(separator)})+", "{re.escape(separator)}"),
            ("steps-of-nothing", "if text[:end].strip() and text[end:].strip()]", "]"),
            ("steps-with-gaps", "return [dense[number] for number in found]", "return found"),
            ("steps-end-a-token-late", "bisect_right(ends, start) for start in starts", "bisect_left(ends, start) for start in starts"),
        ),
    ),
    "prl/data/columns.py": (
        "u.preference_encoding",
        (
            ("lists-of-any-length", "if len(entries) != count:", "if False:"),
            ("empty-texts-in-lists", "or not entry.strip():", "or False:"),
            ("empty-lists-pass", "    if not value:\n", "    if False:\n"),
            ("any-number-is-a-class", "if found[name] not in range(count):", "if False:"),
            ("columns-without-a-number", "if not math.isfinite(number):", "if False:"),
            ("win-rates-in-percent", "if is_probability and not 0 <= number <= 1:", "if False:"),
        ),
    ),
    "prl/data/reference_cache.py": (
        "u.reference_cache i.preference",
        (
            ("cached-responses-between-each-other", "np.count_nonzero(of_pairs[:n] == pair) for", "n // (1 + int(of_pairs.max())) for"),
            ("damaged-cache-is-read", "if (fault := _fault(place)) is not None:", "if (fault := None) is not None:"),
            ("good-cache-is-replaced", "if self.place.exists() and _fault(self.place) is None:", "if False:"),
            ("what-was-cut-off-is-kept", "            if kind is None:\n", "            if True:\n"),
        ),
    ),
    "prl/models/prefix_sharing/completions.py": (
        "u.completions u.preference_module",
        (
            ("packed-tokens-predict-themselves", "packed.paths()[:, :-1]", "packed.paths()[:, 1:]"),
            ("packed-states-of-the-first-row", " + packed.row[:, None] * packed.input_ids.shape[1]", ""),
        ),
    ),
    "prl/models/prefix_sharing/packing.py": (
        "u.completions u.tree_attention",
        (
            ("packed-rows-take-what-does-not-fit", "if left >= size)", "if left >= 0)"),
            ("packed-tokens-see-their-siblings", "return (key <= query) & (query < end)", "return (key <= query) & (0 < end)"),
        ),
    ),
    "prl/models/prefix_sharing/tree_attention.py": (
        "u.completions u.tree_attention",
        (("packed-past-the-window", " or longest > widest:", ":"),),
    ),
    "prl/models/logprobs.py": (
        f"u.logprobs {_STAGE}",
        (("completions-one-token-late", "attention_mask, input_ids[:, 1:], counted)", "attention_mask, input_ids[:, :-1], counted)"),),
    ),
    "prl/models/token_kl.py": (
        "u.token_kl u.preference_states",
        (
            ("kl-the-wrong-way-round", "(policy.exp() * (policy - reference))", "(reference.exp() * (reference - policy))"),
            ("kl-behind-a-cap", "if reason is not None or not getattr", "if not getattr"),
            ("kl-between-vocabularies", "if sizes[0] != sizes[1]:", "if False:"),
        ),
    ),
    "prl/objectives/preference/base.py": (
        _OBJECTIVES + " u.preference_states u.spo",
        (
            ("states-of-the-first-token", "(self.lengths - 1).clamp(min=0)]", "self.lengths * 0]"),
            ("guides-get-gradients", "- self.ref_logprobs).detach()", "- self.ref_logprobs)"),
            ("implicit-reward-without-beta", 'return getattr(self, "beta", 1.0) * of_response', "return of_response"),
            ("lists-from-the-wrong-places", "< counts[:, None]).flatten()", "< counts.flip(0)[:, None]).flatten()"),
            ("padding-is-summed", "values.masked_fill(~self.mask, 0).sum(1)", "values.sum(1)"),
            ("weights-of-tokens-forgotten", "ratios if weights is None else ratios * weights", "ratios"),
            ("mean-over-the-longest-response", "self.logprob() / self.lengths.clamp(min=1)", "self.logprob() / self.mask.shape[1]"),
        ),
    ),
    "prl/models/limits.py": (
        "u.limits u.preference_module",
        (
            ("ids-of-another-vocabulary", "    if differing:\n", "    if False:\n"),
            ("ids-split-otherwise", "elif own.encode(PROBE, add_special_tokens=False) != ", "elif None != own.encode('') != "),
        ),
    ),
    "prl/objectives/preference/sppo.py": (
        "u.sppo u.every_method",
        (
            ("sppo-without-its-half", "(chosen.square() + rejected.square()) / 2", "(chosen.square() + rejected.square())"),
            ("sppo-targets-from-zero", "(rate.to(side.logprobs.dtype) - 0.5)", "rate.to(side.logprobs.dtype)"),
            ("sppo-rejected-wins-as-chosen", "[batch.target, 1 - batch.target]", "[batch.target, batch.target]"),
        ),
    ),
    "prl/objectives/preference/dno.py": (
        "u.dno u.every_method",
        (
            ("dno-win-rate-of-chosen-alone", "(chosen - rejected).sigmoid()", "chosen"),
            ("dno-without-beta", "margin = self.beta * (", "margin = 1.0 * ("),
        ),
    ),
    "prl/objectives/preference/spo.py": (
        "u.spo u.every_objective u.preference_states",
        (
            ("spo-forgets-what-the-other-needs", "            setattr(self, need, getattr(self.objective, need))\n", "            pass\n"),
            ("spo-without-weight", "loss + self.weight * (told[0] + told[1])", "loss + told[0] + told[1]"),
            ("spo-of-chosen-alone", "(told[0] + told[1])", "(told[0] + told[0])"),
            ("spo-rewards-by-itself", "return self.objective.reward(responses)", "return super().reward(responses)"),
            ("spo-forgets-the-state", "return {} if state is None else state()", "return {}"),
        ),
    ),
    "prl/objectives/preference/oreo.py": (
        "u.oreo u.every_objective",
        (
            ("oreo-teaches-the-policy-by-the-critic", "self.beta * rest.detach()", "self.beta * rest"),
            ("oreo-answers-for-later-tokens", "pad(rest[:, 1:], (0, 1)).detach()", "pad(rest[:, 1:], (0, 1))"),
            ("oreo-sums-what-is-past", "ratios.flip(1).cumsum(1).flip(1)", "ratios.cumsum(1)"),
            ("oreo-teaches-the-critic-by-the-policy", "mean((gaps.detach() + self.beta * (ratios", "mean((gaps + self.beta * (ratios"),
            ("oreo-over-the-longest-response", "/ mask.sum(1).clamp(min=1)", "/ mask.shape[1]"),
            ("oreo-values-of-whole-steps", "responses.by_step(values.masked_fill(~is_first, 0))", "responses.by_step(values)"),
            ("oreo-kl-by-step", '_mean(responses.of_states("kl"), responses.mask)', '_mean(responses.of_states("kl")[:, : mask.shape[1]], mask)'),
            ("oreo-counts-empty-places", "/ present.sum(1).clamp(min=1)", "/ present.shape[1]"),
        ),
    ),
    "prl/objectives/preference/brain.py": (
        "u.brain u.every_objective",
        (
            ("brain-the-wrong-way-round", "(log_a.exp() * (log_a - log_b)", "(log_b.exp() * (log_b - log_a)"),
            ("brain-without-temperature", 'batch.columns["rewards"] / self.temperature', 'batch.columns["rewards"]'),
            ("brain-counts-empty-places", "(each.masked_fill(~present, -math.inf).log_softmax(1) for", "(each.log_softmax(1) for"),
            ("brain-forgets-the-proposal", "posterior, policy = posterior + lead, policy + lead", "posterior, policy = posterior + lead, policy"),
        ),
    ),
    "prl/objectives/preference/tree_po.py": (
        "u.tree_po u.every_objective",
        (
            ("tree-po-counts-empty-places", "& present[:, :, None] & present[:, None, :]", "& present[:, :, None]"),
            ("tree-po-ranks-empty-places", "masked_fill(~present, -math.inf)", "masked_fill(~present, math.inf)"),
            ("tree-po-the-wrong-way-round", "softplus(-margins)", "softplus(margins)"),
            ("tree-po-states-before-the-tokens", "detach()[:, 1:], (0, 0, 0, 1))", "detach()[:, :-1], (0, 0, 0, 1))"),
            ("tree-po-learns-likeness", '.of_states("hidden").detach()', '.of_states("hidden")'),
            ("tree-po-leaves-single-steps-out", "((1 + alike) *", "((1 + alike) * (alike != 0) *"),
            ("tree-po-steps-without-beta", "self.beta * _weighed_margins", "_weighed_margins"),
            ("tree-po-ties-by-place", "by_reward = rewards.argsort(", "by_reward = torch.zeros_like(rewards).argsort("),
            ("tree-po-without-scale", 'batch.columns["rewards"] / self.scale', 'batch.columns["rewards"]'),
        ),
    ),
    "prl/objectives/preference/srpo.py": (
        "u.srpo u.every_objective",
        (
            ("srpo-alpha-on-the-other-side", "(1 - self.alpha) * both**2 + self.alpha *", "self.alpha * both**2 + (1 - self.alpha) *"),
            ("srpo-forgets-the-plain-answers", "w_given_l + chosen - l_given_w - rejected", "w_given_l - l_given_w"),
            ("srpo-revises-for-a-sure-label", "(lead - (batch.target - 0.5) for", "(lead - 0.5 for"),
            ("srpo-without-beta", "self.beta * batch.views[name].log_ratio()", "batch.views[name].log_ratio()"),
        ),
    ),
    "prl/objectives/preference/triple_po.py": (
        "u.triple_po u.every_method",
        (
            ("gold-is-unlearnt", "loss - self.alpha * batch", "loss + self.alpha * batch"),
            ("gold-is-summed", 'batch.views["gold"].mean_logprob()', 'batch.views["gold"].logprob()'),
            ("tpo-is-always-summed", 'responses.logprob() if self.form == "TPO" else', 'responses.logprob() if True else'),
            ("gold-is-read-without-weight", "        if alpha == 0:\n", "        if False:\n"),
        ),
    ),
    "prl/objectives/preference/tgdpo.py": (
        f"{_GUIDED} u.every_method",
        (
            ("rejected-learns-more-of-good-tokens", "-scale * worse.guide_ratios", "scale * worse.guide_ratios"),
            ("tgdpo-reward-without-beta", "scale = self.alpha * self.beta", "scale = self.alpha"),
            ("tgdpo-warns-at-every-step", "            self._has_warned = True\n", ""),
            ("tgdpo-warns-of-an-order-that-does-not-count", "batch.target < 1", "batch.target <= 1"),
        ),
    ),
    "prl/objectives/preference/modpo.py": (
        f"{_GUIDED} u.every_method",
        (
            ("modpo-margin-forgets-its-weight", "(1 - self.weight) * (chosen - rejected)", "(chosen - rejected)"),
            ("modpo-without-its-divisor", ") / self.weight\n", ")\n"),
            ("modpo-guide-without-beta", 'self.beta * each.guide_ratios("guide")', 'each.guide_ratios("guide")'),
        ),
    ),
    "prl/objectives/logistic.py": (
        _OBJECTIVES,
        (
            ("flips-add-up", "target * (1 - 2 * rate) + rate", "target * (1 - rate) + rate"),
            ("labels-are-never-right", "if not 0 <= rate < 0.5:", "if not 0 <= rate <= 0.5:"),
            ("a-beta-of-nothing", "if not 0 < beta < math.inf:", "if not 0 <= beta < math.inf:"),
            ("a-doubtful-pair-is-sure", "share * right + (1 - share) * wrong", "right"),
        ),
    ),
    "prl/objectives/preference/dpo.py": (
        _OBJECTIVES,
        (
            ("dpo-without-beta", "margin = self.beta * (", "margin = 1.0 * ("),
            ("dpo-labels-are-never-wrong", "smooth(batch.target, self.label_smoothing)", "batch.target"),
            ("dpo-the-wrong-way-round", "batch.chosen.log_ratio() - batch.rejected.log_ratio()", "batch.rejected.log_ratio() - batch.chosen.log_ratio()"),
        ),
    ),
    "prl/objectives/preference/evaluate.py": (
        _OBJECTIVES,
        (
            ("lists-of-numbers-unchecked", "if (found := [len(some) for some in values]) != counts:", "if False:"),
            ("lengths-of-the-reference-unchecked", "if len(row) != len(other):", "if False:"),
            ("probabilities-pass-for-log-probabilities", "if not -math.inf < value <= ROUNDING]", "if value != value]"),
        ),
    ),
    "prl/objectives/preference/simpo.py": (
        "u.simpo u.every_objective",
        (
            ("simpo-of-sums", "batch.chosen.mean_logprob() - batch.rejected.mean_logprob()", "batch.chosen.logprob() - batch.rejected.logprob()"),
            ("simpo-tie-with-a-winner", "softplus(self.gamma - lead), softplus(self.gamma + lead)", "softplus(self.gamma - lead), softplus(lead - self.gamma)"),
        ),
    ),
    "prl/objectives/preference/f_dpo.py": (
        "u.f_dpo u.every_objective",
        (
            ("f-dpo-the-wrong-way-round", "exponent = -self.power * rho", "exponent = self.power * rho"),
            ("f-dpo-without-a-limit", "exponent.clamp(max=EXPONENT_LIMIT)", "exponent"),
            ("f-dpo-flat-beyond-the-limit", "math.exp(EXPONENT_LIMIT) * beyond", "0 * beyond"),
            ("f-dpo-js-the-wrong-way-round", "F.logsigmoid(rho) + math.log(2)", "F.logsigmoid(-rho) + math.log(2)"),
            ("f-dpo-alpha-for-nothing", 'if alpha is not None and divergence != "alpha":', "if False:"),
        ),
    ),
    "prl/objectives/preference/rpo.py": (
        "u.rpo u.every_objective",
        (
            ("rpo-cumulative-without-beta", "(self.beta * side.logprob() for", "(side.logprob() for"),
            ("rpo-unlearns-chosen", "- self.eta * learnt", "+ self.eta * learnt"),
            ("rpo-learns-chosen-whatever-the-label", "expected(batch.target, chosen, rejected)", "chosen"),
        ),
    ),
    "prl/objectives/preference/ld_dpo.py": (
        "u.ld_dpo u.every_objective",
        (
            ("ld-dpo-of-the-longer-response", "torch.minimum(", "torch.maximum("),
            ("ld-dpo-one-token-more-is-shared", "places >= shared[:, None]", "places > shared[:, None]"),
        ),
    ),
    "prl/objectives/preference/flex_dpo.py": (
        "u.flex_dpo u.every_objective",
        (
            ("flex-dpo-with-betas-exchanged", "self.beta_minus * rejected - self.beta_plus * chosen", "self.beta_plus * rejected - self.beta_minus * chosen"),
            ("flex-dpo-swapped-by-sign-alone", "self.beta_minus * chosen - self.beta_plus * rejected", "self.beta_plus * chosen - self.beta_minus * rejected"),
        ),
    ),
    "prl/objectives/preference/sft_dpo.py": (
        "u.sft_dpo u.every_objective",
        (("sft-dpo-unlearns-chosen", "- self.sft_weight * learnt", "+ self.sft_weight * learnt"),),
    ),
    "prl/objectives/preference/slic.py": (
        "u.slic u.every_objective",
        (
            ("slic-always-with-a-reference", "self.beta, self.needs_reference = beta, with_reference", "self.beta = beta"),
            ("slic-of-means", "responses.logprob())", "responses.mean_logprob())"),
            ("slic-deaf-to-labels", "relu(1 + margin))", "relu(1 - margin))"),
        ),
    ),
    "prl/objectives/preference/vpo.py": (
        "u.vpo u.every_objective",
        (
            ("vpo-pessimism-for-optimism", "raised = -batch", "raised = batch"),
            ("vpo-value-without-beta", "self.alpha * self.beta * raised", "self.alpha * raised"),
            ("vpo-samples-undeclared", 'self.views = (*self.views, "calibration")', "pass"),
        ),
    ),
    "prl/diffusion/snapshots.py": (
        "u.rejected u.denoising_rejected",
        (("snapshots-go-on-learning", 'each.detach().to("cpu", copy=True)', "each.detach()"),),
    ),
    "prl/diffusion/rejected/base.py": (
        "u.rejected u.denoising_rejected",
        (("an-older-self-stays-the-maker", "batches))\n            self._ready = None", "batches))"),),
    ),
    "prl/diffusion/rejected/earlier_selves.py": (
        "u.rejected u.denoising_rejected",
        (
            ("the-first-self-is-always-drawn", "int(float(uniform([key])[0]) * len(self.pool))", "0"),
            ("policy-makes-its-own-rejected", "self.maker(rows.network), rows.condition", "rows.network, rows.condition"),
        ),
    ),
    "prl/diffusion/rejected/policy_states.py": (
        "u.rejected u.denoising_rejected",
        (
            ("states-stop-a-step-early", "share + (left - 1) / self.steps", "share + left / self.steps"),
            ("states-of-the-policy-that-learns", "self.maker(rows.network)", "rows.network"),
        ),
    ),
    "lightning_modules/denoising_preference.py": (
        "u.denoising_rejected",
        (("the-reference-is-not-the-drawn-self", "halved(self.rejected.maker(self.model))", "halved(self.model)"),),
    ),
}  # fmt: skip
