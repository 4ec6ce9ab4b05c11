"""Faults between a file and a batch: encoders, marks, templates, turns, order, and the totals of a step."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/data/rows/criteria.py": (
        "u.criteria",
        (
            ("truth-values-are-weights", "if isinstance(weight, bool) or not", "if not"),
            ("weights-may-be-nothing", "or not 0 < weight < math.inf:", "or not 0 <= weight < math.inf:"),
            ("rubrics-may-be-empty", "    if not value:\n", "    if False:\n"),
            ("numbers-are-facts", "if not isinstance(factual, bool):", "if not isinstance(factual, int):"),
        ),
    ),
    "datamodules/steps.py": (
        "u.accumulation u.loader u.datamodules",
        (
            ("totals-of-one-batch", "for batch in step]\n        of_step", "for batch in step[:1]]\n        of_step"),
            ("steps-begin-anew-after-a-resume", "every - done % every,", "every,"),
            (
                "last-step-of-an-epoch-is-as-long",
                "min(every - done % every, self",
                "max(0, every - done % every), (self",
            ),
        ),
    ),
    "lightning_modules/base.py": (
        "u.accumulation u.training_module u.state_registry",
        (
            (
                "number-of-batches-of-a-step-ignored",
                'return batch["of_step"], self.trainer.accumulate_grad_batches',
                'return batch["of_step"], 1',
            ),
            ("accumulation-by-strange-loaders-is-trained-on", "        if every > 1:\n", "        if False:\n"),
        ),
    ),
    "datamodules/base.py": (
        "u.datamodules u.accumulation u.run_inputs i.errors i.golden_curves",
        (
            ("rows-of-another-stage-are-taken", "if module.record_type is not self.record_type:", "if False:"),
            ("ranks-read-the-same-rows", "rank=trainer.global_rank,", "rank=0,"),
            ("validation-batches-are-the-trainings", "validation_batch_size or batch_size\n", "batch_size\n"),
            ("seed-is-no-input", '"seed": self.seed, "group_by_length"', '"group_by_length"'),
            ("shared-prompts-are-not-told", "        if num_shared:\n", "        if False:\n"),
            (
                "predictions-by-one-rank",
                "rows.select(range(self.trainer.global_rank, len(rows), self.trainer.world_size))",
                "rows",
            ),
            ("length-grouping-always", "group_by_length=self.group_by_length,\n", "group_by_length=True,\n"),
        ),
    ),
    "prl/data/batching.py": (
        "u.batching",
        (
            ("epochs-repeat-their-order", 'random.Random(f"{self.seed}:{epoch}")', 'random.Random(f"{self.seed}")'),
            (
                "longest-rows-are-left-out",
                "rows, rest = rows[:num_full], rows[num_full:]",
                "rows = sorted(rows, key=self.lengths.__getitem__)\n        rows, rest = rows[:num_full], rows[num_full:]",
            ),
            ("batches-in-order-of-length", "        if self.shuffle:\n            generator.shuffle(batches)\n", ""),
        ),
    ),
    "prl/data/splits.py": (
        "u.splits",
        (
            (
                "share-of-rows-not-of-prompts",
                "round(validation_share * len(prompts))",
                "round(validation_share * len(prompt_keys))",
            ),
        ),
    ),
    "prl/data/tokens.py": (
        "u.padding u.chat u.judge_encoding u.datamodules u.one_bos u.records u.passport u.loading u.store",
        (
            ("padding-is-attended-to-on-the-left", ">= (width - lengths)[:, None]", ">= 0"),
            ("padding-is-attended-to-on-the-right", "< lengths[:, None]", "<= lengths[:, None]"),
            ("two-bos-are-taken", "if bos is not None and list(ids[:2]) == [bos, bos]:", "if False:"),
            ("cut-share-counts-what-was-left-out", "bool(truncation & Truncation.CUT)", "bool(truncation)"),
            (
                "template-is-no-part-of-a-tokenizer",
                "settings_hash(rules, tokenizer.chat_template,",
                "settings_hash(rules,",
            ),
            ("weights-of-pairs-are-one", '"weight": pair.weight,', '"weight": 1.0,'),
            ("targets-are-hard", '"target": pair.preference,', '"target": 1.0,'),
        ),
    ),
    "prl/data/encoding.py": (
        "u.chat u.turns u.datamodules u.supervised u.pair_shapes u.overlong u.one_bos u.store u.judge_levers",
        (
            ("loss-on-padding", '"loss_mask": mask & after_prompt', '"loss_mask": after_prompt'),
            ("cut-completions-are-closed", "closes_cut_responses = False", "closes_cut_responses = True"),
            (
                "end-of-turn-is-not-learnt",
                '"num_response": len(response_ids) + len(end)',
                '"num_response": len(response_ids)',
            ),
            ("identical-pairs-stay", 'if chosen["ids"] == rejected["ids"]:', "if False:"),
            (
                "rejected-first",
                'kinds = ("chosen", "rejected", "alone")',
                'kinds = ("rejected", "chosen", "alone")',
            ),
            (
                "length-is-no-part-of-the-fingerprint",
                "tokenizer_hash(self.tokenizer), self.max_length, self.on_too_long",
                "tokenizer_hash(self.tokenizer), self.on_too_long",
            ),
            (
                "anchors-are-no-part-of-the-fingerprint",
                "super().fingerprint, self.needs_anchors, *(",
                "super().fingerprint, *(",
            ),
            ("prompts-keep-their-end-token", "            ids.pop()  #", "            pass  #"),
        ),
    ),
    "prl/data/fitting.py": (
        "u.chat u.judge_encoding u.turns u.overlong",
        (
            (
                "newest-turns-go-first",
                "fits = bisect_left(range(len(kept) - 1), True,",
                "fits = 0 * bisect_left(range(len(kept) - 1), True,",
            ),
            (
                "system-message-goes-first",
                "if len(ids) > room and len(kept := leave_out_oldest",
                "messages = leave_out_system(messages)\n    if len(ids) > room and len(kept := leave_out_oldest",
            ),
            ("cut-prompts-are-not-counted", "truncation | Truncation.PROMPT", "truncation"),
        ),
    ),
    "prl/data/marks.py": (
        "u.chat u.judge_encoding u.turns u.judge_template",
        (
            (
                "marks-in-texts-are-marks",
                "return [marks.encode(text) if marks.found_in(text) else ids for",
                "return [tokenizer(text, add_special_tokens=False)['input_ids'] if marks.found_in(text) else ids for",
            ),
            (
                "normalized-marks-slip-through",
                "bool(self._looks_like.search(text) or self._looks_like.search(self._normalize(text)))",
                "bool(self._pattern.search(text))",
            ),
            (
                "marks-put-together-are-missed",
                "or any(a and b and a in frame and b in frame for a, _, b in put_together)",
                "",
            ),
            ("merges-make-marks", "if not names.keys() & {a, b, a + b}]", "]"),
            (
                "short-marks-win",
                "sorted(_marks(tokenizer, frame), key=len, reverse=True)",
                "sorted(_marks(tokenizer, frame), key=len)",
            ),
        ),
    ),
    "prl/data/templates.py": (
        "u.templates u.judge_template u.chat",
        (
            (
                "loops-are-not-counted",
                '        node.iter = _filtered(node.iter, "_counted")',
                '        node.iter = _filtered(node.iter, "_checked")',
            ),
            (
                "macros-are-not-counted",
                "    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:\n        self.generic_visit(node)\n        node.body.insert(0, _step(node.lineno))\n",
                "    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:\n        self.generic_visit(node)\n",
            ),
            ("products-of-any-size", '        if operator == "*":\n', '        if operator == "/":\n'),
            ("powers-of-any-size", 'if operator == "**" and', 'if operator == "//" and'),
            ("texts-of-any-size", "            _check_size(size := size + len(piece))\n", ""),
            ("concatenations-of-any-size", 'return _filtered(node, "_checked")', "return node"),
            ("formats-of-any-width", '        if operator == "%":\n            _check_width(left)\n', ""),
            (
                "methods-of-any-size",
                "return _checked(super().call(context, function, *args, **kwargs))",
                "return super().call(context, function, *args, **kwargs)",
            ),
            ("json-is-html", 'self.filters["tojson"] = _to_json', "pass"),
            ("steps-carry-over", "        _steps.reset(token)\n", "        pass\n"),
        ),
    ),
    "prl/data/turns.py": (
        "u.turns u.chat u.generate",
        (
            ("end-of-turn-is-always-eos", "    if not end:\n", "    if True:\n"),
            ("text-behind-the-end-is-learnt", "len(whole) - len(behind)])", "len(whole)])"),
            ("tokens-across-the-border", "if ids[: len(prompt_ids)] != prompt_ids:", "if False:"),
            ("marks-of-thoughts-are-characters", "turn = turn.replace(mark, marks.aliases.get(mark, mark), 1)", "pass"),
            ("thoughts-open-twice", "if marks.put_names(begins).rstrip().endswith(OPEN) and", "if False and"),
            ("all-later-marks-are-thoughts", "marks.aliases.get(mark, mark), 1)", "marks.aliases.get(mark, mark))"),
        ),
    ),
    "prl/data/thoughts.py": (
        "u.turns u.actors u.reward_sources",
        (
            ("last-close-ends-thoughts", "text.partition(CLOSE)[2].lstrip()", "text.rpartition(CLOSE)[2].lstrip()"),
            (
                "endless-thoughts-are-judged",
                "return text.partition(CLOSE)[2].lstrip()",
                "return (text.partition(CLOSE)[2] or text).lstrip()",
            ),
            ("opened-thoughts-are-judged", "if not opened and not text", "if not text"),
            ("prompts-never-open-thoughts", "return text.rstrip().endswith(OPEN)", "return text.endswith(OPEN)"),
        ),
    ),
    "prl/data/rows/labels.py": (
        "u.pair_shapes u.records",
        (
            ("margins-are-not-halved", "(1 + math.tanh(margin / 2)) / 2", "(1 + math.tanh(margin)) / 2"),
            ("rank-one-is-the-worst", '== (order == "rank")', '== (order != "rank")'),
            ("rankings-weigh-more", "share = weight / num_pairs", "share = weight"),
        ),
    ),
    "prl/evaluation/separability.py": (
        "u.separability",
        (
            ("probe-sees-its-prompts", "prompts % FOLDS == fold", "torch.arange(len(labels)) % FOLDS == fold"),
            ("second-response-is-always-worse", "(pair.preference > 0.5, pair.preference < 0.5)", "(True, False)"),
            ("weights-are-free", "PENALTY / 2 * weights.square().sum()", "0 * weights.square().sum()"),
        ),
    ),
    "datamodules/preference_pairs.py": (
        "u.datamodules u.pair_shapes",
        (
            ("unknown-words-keep-duplicates", 'if on_duplicate not in ("keep", "drop"):', "if False:"),
            ("attacks-validate", "return kept[~_attacked(records)[kept]]", "return kept"),
            ("attacks-are-in-no-cache-key", 'return self.attacks if name == "train" else None', "return None"),
            ("attacks-of-a-list-are-one", "next(numbers), verdicts", "0, verdicts"),
        ),
    ),
}
