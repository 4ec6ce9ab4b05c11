"""Faults around training: health, checkpoints, resumes, locks, trust, requests, and what strategies are asked."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "lightning_modules/step_health.py": (
        "u.health u.accumulation u.training_module i.health",
        (
            (
                "loss-of-earlier-batches-is-forgotten",
                "self._loss = self._loss + loss.detach().float()",
                "self._loss = loss.detach().float()",
            ),
            ("loss-is-never-forgotten", "        self._loss = 0.0\n        looked_at", "        looked_at"),
            (
                "gradients-are-not-looked-at",
                "None if _is_scaled(trainer) else sharding_of(trainer).gradient_norm(self.module)",
                "None",
            ),
            ("dry-runs-leave-batches", "return None if is_dry_run(trainer) else Path", "return Path"),
            ("weights-are-written-as-they-are", "if counts and (count :=", "if False and (count :="),
        ),
    ),
    "prl/rl/health_monitor.py": (
        "u.health i.health i.ppo_by_hand",
        (
            (
                "last-cause-is-named",
                "next(kind for kind in NOT_FINITE if kind in found)",
                "[kind for kind in NOT_FINITE if kind in found][-1]",
            ),
            ("limit-is-passed-by-one", "if self.record.skipped >= limit:", "if self.record.skipped > limit:"),
            (
                "failed-margins-are-not-finite",
                "return scores.verdict.select(scores.verdict.judged).readings",
                "return scores.verdict.readings",
            ),
        ),
    ),
    "prl/rl/health.py": (
        "u.health i.health i.ppo_by_hand",
        (
            (
                "entropy-falls-below-a-number",
                "entropy < limits.min_entropy * first_entropy",
                "entropy < limits.min_entropy",
            ),
            ("warns-every-time", "% self.limits.warn_every == 0", "% 1 == 0"),
            ("one-error-is-enough", "if kl < -4 * error and", "if kl < -error and"),
            ("first-entropy-is-the-last", "        if self.first_entropy is None:\n", "        if True:\n"),
        ),
    ),
    "lightning_modules/callbacks/run_checkpoint.py": (
        "u.run_checkpoint u.stopping u.checkpoint_files u.training_module i.errors::test_run_folder_that_holds_a_run "
        "i.resume::test_what_others_left_among_the_checkpoints_does_no_harm "
        "i.resume::test_a_run_that_is_stopped_before_its_first_batch_is_done_leaves_no_checkpoint "
        "i.resume::test_stopped_run_ends_like_an_uninterrupted_one",
        (
            ("an-epoch-is-not-counted", "        begin_epoch(trainer)\n", ""),
            ("an-epoch-without-a-batch-goes-on", "if done == self._epoch_ended_at:", "if False:"),
            ("checkpoints-are-torn-in-place", "        if path.is_symlink():  #", "        if False:  #"),
            (
                "checkpoints-never-fall-due",
                "self._due |= bool(self.every_n_batches) and done % self.every_n_batches == 0",
                "pass",
            ),
            ("saved-within-a-step", "if not trainer.fit_loop._should_accumulate():", "if True:"),
            (
                "nothing-saved-at-the-end",
                "            self._save(trainer, batches_done(trainer))\n",
                "            pass\n",
            ),
            ("saved-twice", "        if done == self._saved_at:\n            return\n", ""),
            (
                "draws-of-the-broken-batch-are-saved",
                "            set_random_states(self._boundary.random)\n            self._save",
                "            self._save",
            ),
            (
                "counters-of-the-broken-batch-are-saved",
                "if self._own_save and self._boundary is not None:\n            checkpoint",
                "if False:\n            checkpoint",
            ),
            ("an-owed-validation-is-dropped", "            if self._validates_first:\n", "            if False:\n"),
            (
                "saved-before-its-validation",
                "if self._due and self._boundary is not None and not self._boundary.validation_due:",
                "if self._due and self._boundary is not None:",
            ),
            ("exit-code-is-one", "raise StoppedRun(128 + number)", "raise StoppedRun(1)"),
            ("torn-parts-stay", "checkpoint_files.discard(partial)", "pass"),
            ("old-checkpoints-outlive-a-new-run", "                checkpoint_files.clear(self.folder)\n", ""),
            ("old-model-outlives-a-new-run", "                clear_model(Path(trainer.default_root_dir))\n", ""),
            ("last-is-lightnings-too", "callback.CHECKPOINT_NAME_LAST = MODEL_CHECKPOINT_LAST", "pass"),
        ),
    ),
    "lightning_modules/callbacks/stop_signals.py": (
        "u.stopping",
        (
            (
                "second-ctrl-c-waits",
                "            if self.received:\n                raise",
                "            if False:\n                raise",
            ),
            ("nohup-is-ignored", "signal.getsignal(number) == signal.SIG_IGN:", "False:"),
            ("handlers-are-not-taken", "            self.install()\n", ""),
            ("lost-output-is-not-heard", "            terminal.listen(self._note_lost_output)\n", ""),
            ("listens-for-ever", "            terminal.stop_listening(self._note_lost_output)\n", ""),
        ),
    ),
    "lightning_modules/callbacks/random_states.py": (
        "u.random_states u.distributed",
        (
            (
                "a-run-that-trains-nothing-forgets-draws",
                "own = self._pending or random_states()",
                "own = random_states()",
            ),
            ("draws-of-the-first-rank", "self._pending = ranks[rank()]", "self._pending = ranks[0]"),
            ("fewer-processes-draw-as-before", "generator.manual_seed(seed + rank())\n", "pass\n"),
        ),
    ),
    "prl/checkpoints/random_states.py": (
        "u.random_states",
        (
            ("pythons-draws-are-forgotten", "    random.setstate((3, tuple(internal), gauss))\n", ""),
            (
                "numpys-draws-are-forgotten",
                '    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))\n',
                "",
            ),
            ("validation-moves-trainings-draws", "    with torch.random.fork_rng():\n", "    if True:\n"),
        ),
    ),
    "lightning_modules/callbacks/run_ledger.py": (
        "u.ledger i.verified_resume",
        (
            ("ledger-knows-no-draws", "content_hash(random_states())]", "content_hash(0)]"),
            ("ledger-knows-no-state", '"state": state_numbers(pl_module.run_state.state_dict()),', '"state": {},'),
            (
                "ledger-knows-no-weights",
                "weights_fingerprint([each for each in pl_module.parameters() if each.requires_grad])",
                "weights_fingerprint([torch.zeros(1)])",
            ),
            ("ledger-knows-no-responses", 'content_hash(outputs["responses"])', "content_hash(0)"),
            ("ledger-knows-no-rate", '[group["lr"] for optimizer', "[0.0 for optimizer"),
        ),
    ),
    "prl/checkpoints/ledger.py": (
        "u.ledger",
        (
            (
                "fingerprint-without-signs",
                "sums = [float(flat @ sign) for sign in signs]",
                "sums = [float(flat.sum()) for sign in signs]",
            ),
            ("hash-forgets-the-shape", 'yield f"{plain.dtype}{tuple(plain.shape)}".encode()', 'yield b""'),
        ),
    ),
    "lightning_modules/callbacks/run_inputs.py": (
        "u.run_inputs",
        (
            ("changed-inputs-are-taken", "        if refused:\n", "        if False:\n"),
            (
                "accepted-changes-are-not-told",
                "for name, how in changed.items() if trainer.is_global_zero else ():",
                "for name, how in ():",
            ),
            ("inputs-are-not-saved", 'checkpoint["inputs"] = self.inputs', "pass"),
            (
                "validation-is-refused-too",
                'if trainer.state.fn != "fit" or is_dry_run(trainer):',
                "if is_dry_run(trainer):",
            ),
        ),
    ),
    "prl/run_folder/inputs.py": (
        "u.run_inputs",
        (
            ("tokenizer-of-its-own-is-no-input", "    if source.tokenizer is not None:\n", "    if False:\n"),
            (
                "base-model-is-no-input",
                "if (base := linked_model(str(place)) or base_of(str(place))) is not None:",
                "if False:",
            ),
            ("passport-is-an-input", "path.name not in _ABOUT and not", "not"),
            (
                "new-inputs-are-no-change",
                "names = [*before, *(name for name in now if name not in before)]",
                "names = [*before]",
            ),
            (
                "accepting-one-accepts-all",
                "return any(name == each or name.startswith",
                "return bool(accept) or any(name == each or name.startswith",
            ),
            ("prefixes-are-accepted", 'name.startswith((f"{each}.", f"{each}/"))', "name.startswith(each)"),
        ),
    ),
    "prl/run_folder/lock.py": (
        "u.run_lock",
        (
            ("two-runs-in-a-folder", "        lock.acquire(blocking=False)\n", ""),
            (
                "every-rank-locks",
                "lock = _acquired(run, option) if is_first_process() else None",
                "lock = _acquired(run, option)",
            ),
            ("lock-stays-behind", "            lock.release()\n", "            pass\n"),
            ("holder-stays-behind", "            (run / HOLDER).unlink(missing_ok=True)\n", ""),
            ("no-lock-no-run", "except (OSError, NotImplementedError) as error:", "except ZeroDivisionError as error:"),
        ),
    ),
    "prl/run_folder/sealed_config.py": (
        "u.sealed_config u.run_folder",
        (
            (
                "edited-configs-are-whole",
                'return None if found.strip() == _sha256(lines) else "its lines are not those that the run wrote"',
                "return None",
            ),
            ("cut-configs-are-whole", 'return "its end is missing" if', "return None if"),
            ("cut-heads-are-whole", "text.startswith(HEAD) or HEAD.startswith(text)", "text.startswith(HEAD)"),
        ),
    ),
    "prl/run_folder/trust.py": (
        "i.trust",
        (
            (
                "class-names-by-prefix",
                'name.startswith(f"{each}.") for each in allowed',
                "name.startswith(each) for each in allowed",
            ),
            (
                "remote-code-is-not-asked-about",
                'elif key in ("trust_remote_code", "weights_only") and',
                "elif False and",
            ),
            ("keys-go-anywhere", 'elif key == "api_key_env" and', "elif False and"),
            ("lists-are-not-looked-into", "    if isinstance(value, list | tuple):\n", "    if False:\n"),
            (
                "resumed-configs-are-the-users",
                'starts_anew = "fit" in args and not any(each.partition("=")[0] == "--ckpt_path" for each in args)',
                "starts_anew = True",
            ),
            ("short-options-are-missed", 'if name == "-c" or (', "if ("),
            ("guard-stays", "        _guarded.reset(token)\n", "        pass\n"),
            ("any-word-trusts", 'if value.lower() not in ("true", "false"):', "if False:"),
        ),
    ),
    "prl/models/weights_check.py": (
        "u.weights_check u.loading",
        (
            ("unexpected-weights-are-taken", "if unexpected or shapes:", "if shapes:"),
            ("other-shapes-are-taken", "if unexpected or shapes:", "if unexpected:"),
            ("heads-are-unexpected", "unexpected -= _heads(model.config, trust_remote_code)", "pass"),
            (
                "missing-weights-are-random",
                "if lacking := {name for name in missing if not new_head or name.startswith(inside)}:",
                "if False:",
            ),
            ("new-heads-are-missing", "not new_head or name.startswith(inside)", "True"),
        ),
    ),
    "prl/system/http.py": (
        "u.http u.endpoint_judge",
        (
            ("each-byte-has-the-whole-time", "        self._given.settimeout(left)\n", ""),
            (
                "deadline-of-one-read",
                "        if left <= 0:\n            raise TimeoutError",
                "        if False:\n            raise TimeoutError",
            ),
            ("redirects-are-followed", "allow_redirects=False", "allow_redirects=True"),
            ("netrc-is-asked", "                auth=self._sign,\n", ""),
            ("keys-in-the-clear", 'if base_url.startswith("http://") and not is_loopback(base_url):', "if False:"),
            ("keys-in-messages", 'return text.replace(self._key, "***") if self._key else text', "return text"),
            ("answers-of-any-size", "if len(text) > MOST_BYTES:", "if False:"),
            ("packed-answers-are-read", '    if coding != "identity":\n', "    if False:\n"),
            ("tries-after-the-end", "if time.monotonic() + pause >= end:", "if False:"),
            ("pauses-as-told", "min(pause, _LONGEST_PAUSE, self.timeout)", "pause"),
            ("errors-of-the-user-are-tried-again", "_AGAIN = (429,", "_AGAIN = (400, 401, 403, 404, 429,"),
            ("passwords-in-addresses", 'if "@" in parts.netloc or', "if"),
            ("requests-outlast-the-collective", "time.monotonic() + _SHARE * waits", 'float("inf")'),
        ),
    ),
    "prl/checkpoints/files.py": (
        "u.checkpoint_files",
        (
            ("manifest-before-the-move", "    partial.rename(final)\n    text", "    text"),
            ("sizes-are-enough", 'if _sha256(file) != expected["sha256"]:', "if False:"),
            ("one-checkpoint-too-few", "if whole and kept < keep:", "if whole and kept < keep - 1:"),
            ("future-checkpoints-stay", "and batches_of(path) <= newest and", "and"),
            (
                "manifest-outlives-its-checkpoint",
                '    if path.suffix == ".ckpt":\n        _remove(manifest_of(path))\n',
                "",
            ),
            ("unlisted-files-are-taken", "if unlisted := sorted(there.keys() - listed.keys()):", "if unlisted := []:"),
            ("manifest-of-another-batch", 'if manifest["batches"] != batches_of(path):', "if False:"),
        ),
    ),
    "prl/evaluation/policy/patience.py": (
        "u.patience",
        (
            ("equal-is-better", "or low > seen", "or low >= seen"),
            ("gap-does-not-matter", "if gap is not None and before is not None and gap <= before:", "if False:"),
            ("other-measures-are-compared", 'if seen["measure"] != measure or', "if"),
        ),
    ),
    "lightning_modules/policy_base.py": (
        "u.policy_report u.patience u.policy_validation i.validation",
        (
            (
                "sanity-checks-are-validations",
                'if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):',
                "if False:",
            ),
            (
                "reference-answers-only-bare-ranks",
                "if any(gathered(lacking)):  #",
                "if not any(batch.anchors):  #",
            ),
        ),
    ),
    "prl/rl/validation.py": (
        "u.policy_report u.patience u.policy_validation i.validation i.golden_curves",
        (
            ("responses-renumbered-in-each-batch", "self._responses += len(rollout)", "pass"),
            ("alarm-at-the-mean", "gap.low > limit", "gap.mean > limit"),
            (
                "anchor-first-is-not-turned",
                "(1 - torch.sigmoid(verdict.margin_ba)).tolist()",
                "torch.sigmoid(verdict.margin_ba).tolist()",
            ),
            (
                "first-difference-is-renewed",
                "        if gap is None:\n            if self.first",
                "        if True:\n            if self.first",
            ),
            ("alarm-is-told-each-time", "if alarm and not self._alarmed and rank() == 0:", "if alarm and rank() == 0:"),
            ("alarm-is-forgotten", '"alarmed": self._alarmed,', '"alarmed": False,'),
            ("first-difference-is-forgotten", '{"first": self.first,', '{"first": None,'),
            (
                "rows-in-the-order-of-processes",
                'for row in rows), key=lambda row: row["row"])',
                "for row in rows), key=lambda row: 0)",
            ),
        ),
    ),
    "lightning_modules/strategies/settings.py": (
        "u.strategies u.precision u.memory",
        (
            ("zero-1-cuts-gradients", "gradients=stage >= 2", "gradients=True"),
            ("zero-2-cuts-weights", "weights=stage >= 3", "weights=stage >= 2"),
            ("sixteen-bits-learn", 'if str(precision) in ("bf16-true", "16-true"):', "if False:"),
            (
                "lightnings-deepspeed-is-taken",
                'if name.startswith("deepspeed") or name == "DeepSpeedStrategy":',
                "if False:",
            ),
            ("older-fsdp-is-taken", 'if name in ("fsdp", "fsdp_cpu_offload", "FSDPStrategy"):', "if False:"),
            ("replicas-are-not-read", 'replicas=int(arguments.get("replicas", 1))', "replicas=1"),
            ("zero-on-the-cpu", "and isinstance(accelerator, str) and not wants_gpu:", "and False:"),
        ),
    ),
    "lightning_modules/strategies/sharding.py": (
        "u.strategies u.actors u.health",
        (
            ("plain-ddp-may-leave-parameters-out", 'not strategy._ddp_kwargs.get("find_unused_parameters")', "False"),
            (
                "zero-waits-for-all-gradients",
                "    keeps_float32_copies = True\n    strategy: ZeROStrategy",
                "    keeps_float32_copies = waits_for_all_gradients = True\n    strategy: ZeROStrategy",
            ),
            ("zero-2-is-in-shards", "self.cuts_weights = strategy.zero_stage_3", "self.cuts_weights = True"),
            ("shards-where-nothing-is-cut", "if not isinstance(strategy, ShardedCheckpoints):", "if False:"),
            ("kept-weights-are-no-copies", "else kept.clone()", "else kept"),
        ),
    ),
    "lightning_modules/strategies/sampling.py": (
        "u.strategies u.memory",
        (
            ("caches-are-free", "needed = weights + cache_bytes(model, tokens)", "needed = weights"),
            ("keys-without-values", "return 2 * config.num_hidden_layers", "return config.num_hidden_layers"),
            (
                "all-query-heads-are-cached",
                'getattr(config, "num_key_value_heads", None) or config.num_attention_heads',
                "config.num_attention_heads",
            ),
            ("never-is-always", 'if gather == "never" or (gather', "if (gather"),
            (
                "a-process-has-the-machine",
                "psutil.virtual_memory().available // processes",
                "psutil.virtual_memory().available",
            ),
        ),
    ),
    "lightning_modules/state_registry.py": (
        "u.state_registry",
        (
            ("parts-are-not-given-back", "            part.load_state_dict(state[name])\n", "            pass\n"),
            ("parts-that-are-missing-are-fine", "if state.keys() != self.parts.keys():", "if False:"),
            ("forgotten-parts-are-fine", "if not self._has(part):", "if False:"),
        ),
    ),
    "prl/anchors/sources.py": (
        "u.anchors i.ppo_sources",
        (
            ("previous-policy-is-the-newest", "if self._weights is None or self._age >= self.every:", "if True:"),
            (
                "previous-policy-never-ages",
                "if self._weights is None or self._age >= self.every:",
                "if self._weights is None:",
            ),
            ("reference-samples-are-one", "for _ in range(self.count)]", "for _ in range(1)]"),
            ("siblings-include-oneself", "(*texts[:i], *texts[i + 1 :])", "(*texts,)"),
            (
                "age-is-forgotten",
                '{"weights": self._weights, "age": self._age}',
                '{"weights": self._weights, "age": 0}',
            ),
        ),
    ),
    "prl/judge/gate.py": (
        "u.judge_gate",
        (
            ("unmeasured-passes", "            if limit.required:\n", "            if False:\n"),
            (
                "nan-passes",
                'if not (value >= bound if name.startswith("min_") else value <= bound):',
                'if value < bound if name.startswith("min_") else value > bound:',
            ),
            ("ties-are-labels", 'report["num_pairs"] - report.get("num_ties", 0)', 'report["num_pairs"]'),
            ("refusal-is-a-warning", 'if gate.mode == "refuse":', "if False:"),
            (
                "first-position-is-no-distance",
                'value, interval = abs(value - 0.5), ""',
                'value, interval = value - 0.5, ""',
            ),
        ),
    ),
    "lightning_modules/strategies/zero.py": (
        "u.strategies",
        (
            (
                "deepspeed-clips-nothing-by-hand",
                'self.config["gradient_clipping"] = module.max_grad_norm',
                'self.config["gradient_clipping"] = 0.0',
            ),
            (
                "padding-is-a-weight",
                "return [part.local for part in self._parts().values()]",
                "return [flat.detach() for _, flat in self._flats]",
            ),
        ),
    ),
}
