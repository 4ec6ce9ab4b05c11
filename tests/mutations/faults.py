"""The faults that are planted, each with the test files that should notice it.

Most are wiring: what is handed to what. A fault is added with its place in the code, not with the test that kills it.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.mutations import (
    faults_of_arena,
    faults_of_benchmarks,
    faults_of_control,
    faults_of_data,
    faults_of_images,
    faults_of_methods,
    faults_of_pairs,
    faults_of_people,
    faults_of_pictures,
    faults_of_preference,
    faults_of_reuse,
    faults_of_reward,
    faults_of_runs,
    faults_of_sampling,
    faults_of_sharing,
    faults_of_spending,
    faults_of_tools,
    faults_of_turns,
    faults_of_users,
)


@dataclass(frozen=True)
class Fault:
    """One change of one file.

    Args:
        name: what is wrong afterwards, in a few words with hyphens.
        file: of the repository.
        old: text that stands in it once.
        new: what it becomes.
        tests: arguments of pytest; files of the quick suite that should notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


UNIT = {path.stem: path.as_posix() for path in Path("tests/unit").rglob("test_*.py")}
"""Unit tests stand where the code stands that they test; their names are told apart without their folders."""


def _tests(names: str) -> tuple[str, ...]:
    """Test files by name, `u.policy_losses` for the unit test test_losses.py, `i.` integration, `p.` parity; or `::` one test."""
    folders = {"i": "integration", "p": "parity", "n": "native"}
    found = []
    for name in names.split():
        (kind, _, file), mark, test = name.partition("::")[0].partition("."), *name.partition("::")[1:]
        path = UNIT[f"test_{file}"] if kind == "u" else f"tests/{folders[kind]}/test_{file}.py"
        found.append(f"{path}{mark}{test}")
    return tuple(found)


PPO_TESTS = _tests("i.ppo_by_hand u.kl u.critic u.actors u.critic_warmup u.health")
MORE_PPO_TESTS = _tests(
    "u.turns u.limits i.health i.ppo_sources i.validation::test_a_heldout_judge_that_is_the_judge_is_refused "
    "i.resume::test_another_learning_rate_of_the_critic_is_refused_on_resume i.knobs"
)
"""Those that take longer."""
JUDGE_TESTS = _tests(
    "u.judges u.judge_levers u.pair_weights u.accumulation u.fused_training u.tree_attention u.kv_cache"
)
REPORT_TESTS = _tests("u.judge_report u.judged_pairs u.calibration u.policy_report")
DATA_TESTS = _tests("u.batching u.datamodules u.splits u.reading u.records u.pair_shapes u.store")
RESUME_TESTS = _tests("u.training_module u.checkpoint_files u.ledger u.state_registry u.stopping")

PPO = "lightning_modules/pairwise_ppo.py"
POLICIES = "prl/rl/actors.py"
REPORT = "prl/rl/metrics.py"
VALIDATION = "lightning_modules/policy_base.py"

_BY_FILE: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]] = {
    PPO: (
        (*PPO_TESTS, *MORE_PPO_TESTS),
        (
            (
                "failed-judgements-stay-in-the-update",
                "rollout.without(scores.failed | (weights == 0))\n",
                "rollout.without(weights == 0)\n",
            ),
            ("kl-controller-hears-of-nothing", "int(global_sum(experience.counted.sum())))\n", "0)\n"),
            (
                "kl-controller-is-fed-token-means",
                "self.kl.update(sequence_kl(experience),",
                "self.kl.update(sequence_kl(experience) / rollout.response_mask.shape[1],",
            ),
            (
                "kl-is-steered-while-the-critic-warms-up",
                "if not self.warmup.is_active(self.batches_done()):  # a policy",
                "if True:  # a policy",
            ),
            ("entropy-without-its-weight", "with_entropy=self.objective.needs_entropy", "with_entropy=False"),
            (
                "anchors-are-not-placed",
                "return rollout.anchored(self.anchors.anchors_for(",
                "return rollout or rollout.anchored(self.anchors.anchors_for(",
            ),
            (
                "left-out-iterations-hold-the-schedule",
                "            self.lr_schedulers().step()  # type: ignore[union-attr]  # the schedule counts iterations\n",
                "",
            ),
            (
                "critic-starts-at-the-policy",
                "self.critic_settings.model or policy\n",
                "policy\n",
            ),
            (
                "critic-rate-is-no-setting-of-the-optimizer",
                'return {**super()._optimizer_settings(), "critic_learning_rate": self._critic_learning_rate}',
                "return super()._optimizer_settings()",
            ),
            (
                "unsound-batches-are-learnt-from",
                "if not self.health.is_sound(iteration, rollout, scores, experience):",
                "self.health.is_sound(iteration, rollout, scores, experience)\n        if False:",
            ),
            (
                "bank-hears-of-no-verdict",
                "stats |= self.anchors.update(rollout, scores, self.actors)",
                "pass",
            ),
            (
                "one-rollout-per-prompt",
                "self.generate(batch.repeat(self.sampling.per_prompt))",
                "self.generate(batch.repeat(1))",
            ),
            (
                "reference-and-policy-swapped-in-assemble",
                "old_logprobs=old,\n                ref_logprobs=ref,",
                "old_logprobs=ref,\n                ref_logprobs=old,",
            ),
            (
                "run-goes-on-after-its-iterations",
                '    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:\n        """End the run after the last iteration."""\n        self.trainer.should_stop |= self.batches_done() >= self.iterations',
                '    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:\n        """End the run after the last iteration."""\n        self.trainer.should_stop |= self.batches_done() > self.iterations',
            ),
        ),
    ),
    POLICIES: (
        (*PPO_TESTS, *_tests("u.share_base_model u.anchors i.rollout_server")),
        (
            ("reference-with-adapters-on", "with without_adapters(self.policy):\n", "if True:\n"),
            (
                "reference-at-temperature-one",
                "model, rollout, temperature=self.sampling.temperature, sharing",
                "model, rollout, temperature=1.0, sharing",
            ),
            (
                "update-at-temperature-one",
                '{"temperature": self.sampling.temperature, ',
                '{"temperature": 1.0, ',
            ),
            (
                "reference-responses-with-spaces",
                "            rollout = self._sample(model, batch)\n        return [text.strip() for text in rollout.texts]",
                "            rollout = self._sample(model, batch)\n        return rollout.texts",
            ),
            ("older-policy-stays-in-place", "            self._put(own)\n", "            pass\n"),
            ("older-policy-is-the-policy", "            self._put(weights)\n            yield", "            yield"),
        ),
    ),
    "lightning_modules/optimizers.py": (
        (*PPO_TESTS, *_tests("u.schedule")),
        (
            (
                "critic-learns-at-the-policys-rate",
                "settings if rate is None else replace(settings, learning_rate=rate)",
                "settings",
            ),
            ("weight-decay-on-vectors", '"weight_decay": 0.0, "name"', '"weight_decay": settings.weight_decay, "name"'),
            ("betas-swapped", "betas=(settings.beta1, settings.beta2)", "betas=(settings.beta2, settings.beta1)"),
            (
                "warm-up-starts-at-zero",
                "return (step + 1) / (settings.warmup + 1)",
                "return step / (settings.warmup + 1)",
            ),
            (
                "critic-warms-up-too",
                "return learning_rate_factor(step, replace(settings, warmup=0), total_steps)",
                "return learning_rate_factor(step, settings, total_steps)",
            ),
            ("policys-schedule-without-the-warm-up", "total_steps - alone)", "total_steps)"),
        ),
    ),
    REPORT: (
        PPO_TESTS,
        (
            (
                "kl-of-tokens-instead-of-sequences",
                "kl.masked_fill(~experience.rollout.response_mask, 0).sum(1)",
                "kl.masked_fill(~experience.rollout.response_mask, 0).mean(1)",
            ),
            (
                "mean-score-with-failures",
                '"reward/score": mean_over_ranks(experience.rewards[rewarded])',
                '"reward/score": mean_over_ranks(experience.rewards)',
            ),
            (
                "entropy-with-the-wrong-sign",
                "-float(masked_mean(experience.old_logprobs, mask))",
                "float(masked_mean(experience.old_logprobs, mask))",
            ),
            (
                "clipped-ratio-is-the-finished-one",
                "mean_over_ranks(~rollout.finished)",
                "mean_over_ranks(rollout.finished)",
            ),
            ("shortest-is-the-longest", "-float(global_max(-lengths.min()))", "-float(global_max(-lengths.max()))"),
            (
                "return-mean-is-the-value-mean",
                'numbers["value/return_mean"] = float(masked_mean(experience.returns, mask))',
                'numbers["value/return_mean"] = float(masked_mean(experience.values, mask))',
            ),
            (
                "win-rate-is-the-probability",
                '"reward/win_rate": mean_over_ranks(wins(verdict.win_logit))',
                '"reward/win_rate": mean_over_ranks(verdict.win_prob)',
            ),
            (
                "flips-are-gaps",
                '"reward/flip_rate": mean_over_ranks(both.flipped & (both.win_logit != 0))',
                '"reward/flip_rate": mean_over_ranks(both.order_gap)',
            ),
            ("episodes-are-iterations", "float(iteration * num_rows)", "float(iteration)"),
            ("stderr-of-one-row", "/ num_counted**0.5", ""),
        ),
    ),
    VALIDATION: (
        (*PPO_TESTS, *_tests("u.policy_report u.policy_validation i.golden_curves i.validation")),
        (
            ("other-draws-at-each-validation", "with forked(seed=batch_idx * world_size() + rank()):", "if True:"),
            ("validation-kl-reversed", "(policy - reference).sum(1)", "(reference - policy).sum(1)"),
            ("patience-counts-repeats", 'in_training = trainer.state.fn == "fit"', "in_training = True"),
            ("one-draw-for-all-batches", "seed=batch_idx * world_size() + rank()", "seed=rank()"),
            ("validations-ask-about-tokens-too", "per_token=self.trainer.training", "per_token=True"),
        ),
    ),
    "prl/rl/judging.py": (
        _tests("u.turns u.actors u.policy_validation i.validation i.ppo_by_hand"),
        (
            ("a-policys-anchor-shows-its-thoughts", "(self._own_anchors or CLOSE in text)", "CLOSE in text"),
            (
                "judges-read-thoughts",
                "source.score(self.answers(rollout))",
                "source.score(rollout)",
            ),
            (
                "training-judge-confirms",
                "filter(None, (self.heldout, *judges))",
                "filter(None, (*judges, self.heldout))",
            ),
            (
                "heldout-judge-is-the-judge",
                "return against_anchors(self.heldout.compare,",
                "return against_anchors(self.reward.compare,",
            ),
        ),
    ),
    "prl/rl/minibatch.py": (
        (*_tests("u.minibatch"), *PPO_TESTS, *MORE_PPO_TESTS),
        (),
    ),
    "lightning_modules/ppo_checks.py": (
        _tests("i.validation::test_a_heldout_judge_that_is_the_judge_is_refused u.ppo_checks"),
        (
            ("group-is-not-asked-for", "if advantage.compares_group and not", "if False and not"),
            (
                "heldout-judge-may-be-the-judge",
                "if heldout is not None and reward.folder is not None and",
                "if False and",
            ),
        ),
    ),
    "prl/rl/experience.py": (
        (*PPO_TESTS, *_tests("u.shaping u.overlong")),
        (),
    ),
    "prl/objectives/policy/ppo.py": (
        (*PPO_TESTS, *_tests("u.policy_losses p.trl_losses p.design_numbers")),
        (),
    ),
    "prl/rewards/shapers/base.py": (
        (*PPO_TESTS, *_tests("u.shaping u.overlong u.reward_sources")),
        (),
    ),
    "prl/anchors/bank.py": (
        _tests("u.anchors i.ppo_sources"),
        (
            ("any-winner-is-the-challenger", "if probability > anchor.challenger_prob:", "if probability > 0.5:"),
            (
                "first-winner-stays-the-challenger",
                "anchor.challenger, anchor.challenger_prob = text, probability",
                "anchor.challenger, anchor.challenger_prob = anchor.challenger or text, probability",
            ),
            (
                "refused-challengers-take-over",
                "text = anchor.challenger if accepted else anchor.text",
                "text = anchor.challenger",
            ),
            ("ties-are-wins", "0.5 if probability == 0.5 else float(probability > 0.5)", "float(probability >= 0.5)"),
            ("failed-judgements-are-losses", "if probability == probability:", "if True:"),
        ),
    ),
    "prl/judge/generative.py": (
        (*JUDGE_TESTS, *_tests("u.calibrated")),
        (
            (
                "position-offset-forgotten",
                "(found - self.position_offset) / self.temperature",
                "found / self.temperature",
            ),
            ("any-template-will-do", "if described and (changed", "if False and (changed"),
            ("prefix-cache-forgets-the-temperature", "(result - self.position_offset) / self.temperature", "result"),
            (
                "temperature-forgotten",
                "(found - self.position_offset) / self.temperature",
                "found",
            ),
            ("any-tokenizer-will-do", "if found != saved:", "if False:"),
        ),
    ),
    "prl/judge/calibrated.py": (
        _tests("u.calibrated"),
        (
            (
                "second-calibration-forgets-the-first",
                "judge.position_offset + judge.temperature * offset",
                "offset",
            ),
            ("an-end-of-the-range-fits", "if not is_at_an_end(temperature):", "if True:"),
            ("reward-heads-are-not-calibrated", "[weight / temperature for", "[weight for"),
        ),
    ),
    "prl/models/location.py": (
        _tests("u.calibrated u.locations"),
        (("links-are-not-followed", "    if model is None:\n        return None", "    return None"),),
    ),
    "prl/rewards/layout.py": (
        _tests("u.layout"),
        (("any-change-is-rounding", "if not change <= ROUNDING", "if False and not change <= ROUNDING"),),
    ),
    "prl/rewards/plain_model.py": (
        _tests("u.plain_model"),
        (("heads-that-nobody-weighed", 'if settings.get("unweighted"):', "if False:"),),
    ),
    "prl/judge/base.py": (
        (*JUDGE_TESTS, *_tests("u.reward_sources u.judge_api")),
        (("both-orders-the-same", "*zip(keys, b, a, strict=True)]", "*zip(keys, a, b, strict=True)]"),),
    ),
    "prl/rewards/base.py": (
        (*PPO_TESTS, *_tests("u.reward_sources")),
        (
            (
                "responses-judged-unstripped",
                "[texts[row].strip() for row in row_of]",
                "[texts[row] for row in row_of]",
            ),
            ("judges-are-left-trainable", "    freeze(source)\n", "    pass\n"),
        ),
    ),
    "prl/rewards/weighted.py": (
        _tests("u.reward_sources i.ppo_sources"),
        (
            ("weights-ignored", "self.weights[name] * values", "values"),
            (
                "first-verdict-is-the-last",
                "told = next((each for each in scores.values()",
                "told = next((each for each in reversed(list(scores.values()))",
            ),
        ),
    ),
    "lightning_modules/supervised.py": (
        _tests("u.supervised u.accumulation u.training_module"),
        (
            ("prompts-are-learnt-too", 'mask = batch["loss_mask"][:, 1:]', 'mask = batch["attention_mask"][:, 1:]'),
            (
                "targets-not-shifted",
                'token_logprobs(self.model(**inputs).logits, batch["input_ids"][:, 1:], mask)',
                'token_logprobs(self.model(**inputs).logits, batch["input_ids"][:, :-1], mask)',
            ),
            ("validation-weighs-rows", "batch_size=int(count), sync_dist", "batch_size=1, sync_dist"),
            (
                "logged-loss-is-a-sum",
                'self.log("train/loss", total.detach() / count',
                'self.log("train/loss", total.detach()',
            ),
        ),
    ),
    "lightning_modules/judge_validation.py": (
        (*REPORT_TESTS, *_tests("u.pair_weights u.accumulation u.judge_levers u.reward_objectives")),
        (
            (
                "pair-weights-forgotten",
                'weighted_mean(losses, weights, totals["weights"], batches)',
                "losses.mean()",
            ),
            ("ties-count-in-accuracy", "has_winner(targets)", "targets >= 0"),
            (
                "rows-in-the-order-of-ranks",
                "readings, rows = readings[order], self._encoded_rows(numbers)",
                "rows = self._encoded_rows(numbers)",
            ),
            ("margin-of-rejected", "((2 * targets - 1) * win_logit).mean()", "win_logit.mean()"),
            ("a-mean-passes-for-losses-of-a-judge", "if tuple(losses.shape) != (len(pairs),):", "if False:"),
            (
                "state-of-a-judges-objective-forgotten",
                "        self.run_state.register_methods(objective=objective)\n",
                "",
            ),
        ),
    ),
    "lightning_modules/base.py": (
        (*RESUME_TESTS, *_tests("i.errors i.cli_stages i.golden_curves")),
        (
            ("other-optimizer-settings-are-taken", "before not in (None, now)", "False"),
            ("other-stages-checkpoints-are-taken", "if found != type(self).__name__:", "if False:"),
            ("frozen-weights-are-saved", "if k not in frozen}", "}"),
        ),
    ),
    "lightning_modules/callbacks/random_states.py": (
        (*RESUME_TESTS, *_tests("u.distributed u.random_states")),
        (
            ("draws-start-anew", "            set_random_states(self._pending)\n", ""),
            (
                "all-ranks-draw-alike",
                "torch.manual_seed(torch.initial_seed() + rank())",
                "torch.manual_seed(torch.initial_seed())",
            ),
        ),
    ),
    "lightning_modules/callbacks/run_ledger.py": (
        (*RESUME_TESTS, *_tests("i.verified_resume")),
        (
            (
                "ledger-knows-no-data",
                "own = [content_hash(batch), content_hash(random_states())]",
                "own = [content_hash(0), content_hash(random_states())]",
            ),
        ),
    ),
    "datamodules/base.py": (
        (*DATA_TESTS, *_tests("i.errors i.golden_curves")),
        (
            (
                "validation-is-shuffled",
                "self.validation_batch_size,\n            shuffle=False,",
                "self.validation_batch_size,\n            shuffle=True,",
            ),
            (
                "resume-starts-the-epoch-again",
                "completed_batches=lambda: batches_done(trainer),",
                "completed_batches=lambda: 0,",
            ),
            ("short-batches-are-trained-on", "drop_last=True,", "drop_last=False,"),
            (
                "both-sides-validate",
                "train_kept, held_out_kept = train_kept[~aside], self._of_data(",
                "held_out_kept = self._of_data(",
            ),
            (
                "seed-of-the-order-ignored",
                "seed=self.seed,\n            drop_last=True,",
                "seed=0,\n            drop_last=True,",
            ),
        ),
    ),
    "datamodules/preference_pairs.py": (
        _tests("u.datamodules u.pair_shapes"),
        (("duplicates-stay", "np.setdiff1d(kept, of_data[audit.duplicates]) if dropped else kept", "kept"),),
    ),
    "prl/data/splits.py": (
        DATA_TESTS,
        (("split-ignores-its-seed", 'f"{seed}:{name}"', 'f"0:{name}"'),),
    ),
    "prl/evaluation/policy/report.py": (
        REPORT_TESTS,
        (
            ("anchors-count-as-responses", "return list(found.values())", "return [[n] for n in range(len(rows))]"),
            (
                "gap-reversed",
                "[now[prompt] - first[prompt] for prompt in common]",
                "[first[prompt] - now[prompt] for prompt in common]",
            ),
            (
                "heldout-rate-of-the-training-judge",
                '(win_score(row[f"{prefix}margin"]) for row in known)',
                '(win_score(row["margin"]) for row in known)',
            ),
            ("failed-ones-in-the-gap", 'rows = judged(judged(rows), "heldout_")', "rows = list(rows)"),
        ),
    ),
    "prl/models/actor_critic.py": (
        PPO_TESTS,
        (
            (
                "values-outside-the-mask",
                "return values.masked_fill(~mask, 0) if row is None",
                "return values if row is None",
            ),
        ),
    ),
    "prl/models/critic.py": (
        PPO_TESTS,
        (
            ("critic-sees-the-token", "hidden[:, -num_response_tokens - 1 : -1]", "hidden[:, -num_response_tokens:]"),
            (
                "critic-adapters-are-the-policys",
                "with using_adapters(policy, self.NAME):\n            if row",
                "if True:\n            if row",
            ),
        ),
    ),
    "prl/models/adapters.py": (
        (*_tests("u.share_base_model u.critic u.loading"), *PPO_TESTS),
        (
            (
                "gradients-follow-the-active-set",
                "            parameter.requires_grad_(trainable)\n",
                "            pass\n",
            ),
        ),
    ),
    "prl/rollouts/generate.py": (
        (*_tests("u.generate u.turns"), *PPO_TESTS),
        (
            (
                "folders-end-tokens-ignored",
                "end_of_turn(tokenizer)[-1], *named})",
                "end_of_turn(tokenizer)[-1]})",
            ),
            ("templates-end-token-ignored", "end_of_turn(tokenizer)[-1], ", ""),
            (
                "end-token-outside-the-mask",
                "return before == 0, ends.any(1)",
                "return (before == 0) & ~ends, ends.any(1)",
            ),
        ),
    ),
    "prl/verdict.py": (
        (*_tests("u.verdict u.judges"), *PPO_TESTS),
        (
            (
                "ties-flip",
                "self.margin_ab.sign() * self.margin_ba.sign() > 0",
                "self.margin_ab.sign() * self.margin_ba.sign() >= 0",
            ),
            (
                "half-judged-counts",
                "~(self.margin_ab.isnan() | self.margin_ba.isnan())",
                "~(self.margin_ab.isnan() & self.margin_ba.isnan())",
            ),
            ("no-opinion-is-a-loss", "(logit.sign() + 1) / 2", "(logit > 0).float()"),
            ("labels-of-ties-name-a-winner", "return target != 0.5", "return target >= 0"),
        ),
    ),
    "prl/rl/kl_controller.py": (
        (*_tests("u.kl p.design_numbers"), *PPO_TESTS),
        (
            (
                "horizon-of-the-controller-ignored",
                "AdaptiveKL(kl.coef, kl.target, kl.horizon)",
                "AdaptiveKL(kl.coef, kl.target, 10000)",
            ),
            (
                "controller-turned-round",
                "error = min(max(kl / self.target - 1, -0.2), 0.2)",
                "error = -min(max(kl / self.target - 1, -0.2), 0.2)",
            ),
        ),
    ),
    "prl/rl/step_statistics.py": (
        (*_tests("u.policy_losses u.distributed"), *PPO_TESTS),
        (("largest-ratio-is-a-mean", 'max(values) if name.endswith("_max") else', ""),),
    ),
    "prl/masking.py": (
        (*_tests("u.masking u.distributed p.trl_losses"), *PPO_TESTS),
        (("biased-variance", "/ (count - 1).clamp(min=1)\n    scale", "/ count.clamp(min=1)\n    scale"),),
    ),
    "prl/csrc/gae_cuda.cuh": (
        ("tests/native",),
        (
            (
                "fence-before-the-flag-dropped",
                "  __threadfence();\n  raise_flag",
                "  raise_flag",
            ),
            ("fence-behind-the-flag-dropped", "wait_a_little();\n  __threadfence();", "wait_a_little();"),
            (
                "fence-before-the-counter-dropped",
                "    __threadfence();\n    is_last",
                "    is_last",
            ),
            ("fence-behind-the-counter-dropped", "if (!is_last) return;\n  __threadfence();", "if (!is_last) return;"),
        ),
    ),
}

_OTHER_MODULES = (
    faults_of_arena,
    faults_of_control,
    *(faults_of_data, faults_of_methods, faults_of_pairs, faults_of_preference, faults_of_reward, faults_of_runs),
    *(faults_of_tools, faults_of_images, faults_of_pictures),
    faults_of_benchmarks,
    faults_of_people,
    *(faults_of_reuse, faults_of_sampling, faults_of_sharing, faults_of_spending),
    faults_of_turns,
    faults_of_users,
)
_OTHER_FILES = tuple(module.BY_FILE for module in _OTHER_MODULES)
_ELSEWHERE = [(file, _tests(names), faults) for by_file in _OTHER_FILES for file, (names, faults) in by_file.items()]
FAULTS = [
    Fault(name, file, old, new, tests)
    for file, tests, faults in (*((file, *rest) for file, rest in _BY_FILE.items()), *_ELSEWHERE)
    for name, old, new in faults
]

EQUIVALENT: dict[str, str] = {
    "steps-carry-over": "every rendering begins with a number of its own",
    "lock-stays-behind": "CPython drops the lock's object, and with it the lock, as the block ends",
}
"""Faults that change nothing that anybody can see, and why."""
