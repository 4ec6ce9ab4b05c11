"""Faults around code of others and tools: the restricted process, tools, reward models that call them, rewards as code."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/system/restricted.py": (
        "u.restricted",
        (
            ("guards-are-not-tried", "    check_restricted(read_library=read_library)\n    return", "    return"),
            ("any-system-will-do", 'if not sys.platform.startswith("linux"):', "if False:"),
            ("code-inherits-the-environment", 'env={"PYTHONHASHSEED": "0"}', "env=None"),
            ("code-inherits-packages", '"-s", "-S", "-P"', '"-s", "-P"'),
            ("a-crash-is-an-error", "    if exit_code < 0:\n", "    if False:\n"),
            ("what-is-cut-is-done", "full = os.fstat(printed.fileno()).st_size >= most", "full = False"),
            ("any-ending-is-believed", "if ending not in get_args(Ending):", "if False:"),
            ("sets-are-shuffled", '"PYTHONHASHSEED": "0"', '"PYTHONHASHSEED": "random"'),
        ),
    ),
    "prl/system/restricted_child.py": (
        "u.restricted",
        (
            ("root-keeps-its-rights", "    _drop_rights()\n", ""),
            ("an-orphan-begins", "if os.getppid() != parent:", "if False:"),
            ("packages-are-read", 'not in ("site-packages", "dist-packages")', "not in ()"),
            (
                "any-clock-is-read",
                '"clock_gettime": ((228, 113), 16, 16)',
                '"clock_gettime": ((228, 113), 16, 2**32 - 1)',
            ),
            ("calls-are-not-filtered", "    _filter_calls(can_read)\n\n", "\n"),
            ("all-files-are-read", '    _call("syscall", restrict, handle, 0)\n', ""),
            (
                "files-are-read-without-landlock",
                "can_read = read_library and _only_library()",
                "can_read = _only_library()",
            ),
            ("modules-are-not-loaded", "            importlib.import_module(name)\n", "            pass\n"),
            (
                "processes-outlive-the-parent",
                '    _call("prctl", 1, signal.SIGKILL, 0, 0, 0)',
                '    _call("prctl", 1, 0, 0, 0, 0)',
            ),
            ("memory-is-not-limited", "(resource.RLIMIT_AS, *", "(resource.RLIMIT_CORE, *"),
            ("output-is-not-limited", "(resource.RLIMIT_FSIZE, *", "(resource.RLIMIT_CORE, *"),
            ("time-is-not-limited", "(resource.RLIMIT_CPU, seconds, seconds + 1)", "(resource.RLIMIT_CPU, 3600, 3600)"),
        ),
    ),
    "prl/tools/base.py": (
        "u.tools",
        (
            ("errors-of-tools-are-not-told", "True\n    except Exception", "False\n    except Exception"),
            ("observations-have-no-end", '[:longest] or "nothing"', ' or "nothing"'),
        ),
    ),
    "prl/tools/calculator.py": (
        "u.tools",
        (
            (
                "powers-are-computed-first",
                '> self.digits:\n            raise ToolError(f"the power',
                '> 10**9:\n            raise ToolError(f"the power',
            ),
            ("numbers-have-no-end", "abs(value) >= 10**self.digits", "False"),
        ),
    ),
    "prl/tools/search.py": (
        "u.tools",
        (
            ("rare-words-count-alike", "rarity * often", "often"),
            ("lengths-do-not-count", "[1 - b + b * length / mean for", "[1.0 for"),
        ),
    ),
    "prl/data/traces.py": (
        "u.traces u.tool_reward",
        (
            (
                "answers-are-learnt",
                '(observation_text(part["observation"]), learns_observations)',
                '(observation_text(part["observation"]), True)',
            ),
            ("traces-have-no-end", "end = [int(self.tokenizer.eos_token_id)] if ids else []", "end: list[int] = []"),
            ("responses-take-the-room-of-traces", "reserved=len(ids)", "reserved=0"),
            (
                "masks-are-a-token-off",
                "[False] * (len(row[side]) - len(learnt)) + learnt",
                "[False] * (len(row[side]) - len(learnt) - 1) + learnt + [False]",
            ),
            ("observations-are-not-hashed", '"traces", self.learns_observations)', '"traces")'),
        ),
    ),
    "prl/models/language_scorer.py": (
        "u.traces u.tool_reward",
        (
            (
                "score-is-read-before-the-end",
                "last = attention_mask.long().sum(1) - 1",
                "last = attention_mask.long().sum(1) - 2",
            ),
            ("long-traces-count-more", "/ mask.sum(1).clamp(min=1)", ""),
            ("likelihood-of-the-token-itself", "input_ids[:, 1:], learnt[:, 1:]", "input_ids[:, 1:], learnt[:, :-1]"),
            ("head-is-always-new", "    if path.is_file():\n", "    if False:\n"),
        ),
    ),
    "prl/objectives/reward/tool_augmented.py": (
        "u.tool_augmented u.traces",
        (
            (
                "text-is-not-learnt",
                "return loss + self.language_coef * batch.text_nll() if self.language_coef else loss",
                "return loss",
            ),
            ("comparison-has-no-weight", "self.ranking_coef * bradley", "bradley"),
        ),
    ),
    "prl/rewards/tool_reward.py": (
        "u.tool_reward",
        (
            ("calls-have-no-end", "if call is None or calls[number] == self.max_calls:", "if call is None:"),
            ("answers-take-no-room", "            left[number] -= len(ids)\n", ""),
            ("trace-has-no-end-in-scoring", "*ids, *(end if ids else [])", "*ids"),
            ("failed-calls-are-not-counted", "failed[number] + is_failed", "failed[number]"),
            (
                "what-follows-a-call-is-kept",
                "        if OBSERVATION not in self._text(ids):\n            return ids\n",
                "        return ids\n",
            ),
            ("score-is-the-number-of-calls", "return found[-1][:, 0]", "return found[-1][:, 1]"),
        ),
    ),
    "prl/control/icpl.py": (
        "u.icpl",
        (
            ("best-so-far-is-forgotten", "shown = made if best is None else [*made, best]", "shown = made"),
            ("worst-is-the-best", "for place in reversed(order)", "for place in order"),
            ("code-is-not-tried-before", "            _try(environment, code, seed)\n", ""),
            ("faults-are-not-told", "asked = prompt if not faults else", "asked = prompt if True else"),
            ("any-ranking-will-do", "    if sorted(order) != list(range(count)):\n", "    if False:\n"),
            ("lowest-return-is-best", "key=lambda number: -found[number]", "key=lambda number: found[number]"),
        ),
    ),
    "prl/control/reward_code.py": (
        "u.icpl",
        (
            ("numbers-may-be-anything", "if not isinstance(number, float) or not math.isfinite(number):", "if False:"),
            ("lengths-may-be-anything", "len(found) != count", "False"),
            ("components-may-change", "any(each.keys() != names for each in found)", "False"),
        ),
    ),
    "prl/control/reward_training.py": (
        "u.icpl",
        (
            ("worst-policies-are-kept", ".topk(settings.elite)", ".topk(settings.elite, largest=False)"),
            ("curves-are-of-all", "for number in best.tolist() for n in", "for number in range(len(weights)) for n in"),
        ),
    ),
}
