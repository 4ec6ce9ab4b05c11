"""Faults around code of others and tools: the restricted process."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/system/restricted.py": (
        "u.restricted",
        (
            ("guards-are-not-tried", "    check_restricted(read_library=read_library)\n    return", "    return"),
            ("any-system-will-do", 'if not sys.platform.startswith("linux"):', "if False:"),
            ("code-inherits-the-environment", 'env={"PYTHONHASHSEED": "0"}', "env=None"),
            ("code-inherits-packages", '"-s", "-S", "-P"', '"-s", "-P"'),
            ("a-crash-is-an-error", "    if exit_code < 0:\n", "    if False:\n"),
            ("what-is-cut-is-done", "full = len(text.encode()) >= most", "full = False"),
            ("any-ending-is-believed", "if ending not in get_args(Ending):", "if False:"),
            ("sets-are-shuffled", '"PYTHONHASHSEED": "0"', '"PYTHONHASHSEED": "random"'),
        ),
    ),
    "prl/system/restricted_child.py": (
        "u.restricted",
        (
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
}
