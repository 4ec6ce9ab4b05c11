"""The program that `prl.system.restricted` starts: it closes itself in for good, then runs the code that it is given.

It is run by its path, in an interpreter without any packages, so it imports nothing of prl. Standard input holds the
request; printed text goes to standard output, the answer to what was standard error. Both are JSON.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import platform
import resource
import signal
import sys
import traceback
from typing import Any

NAME = "<code>"
"""File name of the code in tracebacks."""
_AUDIT_ARCH, _COLUMN = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}.get(platform.machine(), (0, 0))
_HARMLESS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "getcwd": (79, 17),
    "gettimeofday": (96, 169),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
"""System calls that stay allowed, with their numbers on x86_64 and aarch64: own memory, own files, clocks, the end."""
_BOUNDED = {
    "madvise": ((28, 233), 32, 100),  # from 100 on pages are reported as broken hardware
    "clock_gettime": ((228, 113), 16, 16),  # others are clocks of other processes
    "clock_getres": ((229, 114), 16, 16),
    "clock_nanosleep": ((230, 115), 16, 16),
}
"""Calls that stay allowed where an argument, at this offset, is below a number."""
_OF_FILES = {"getdents64": (217, 61), "newfstatat": (262, 79)}
_OPENAT = (257, 56)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOADED = (
    "array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions functools heapq "
    "itertools json math numbers operator random re statistics string textwrap time typing unicodedata"
)
"""Modules that code without files can import: they are loaded before."""


# ---- guards


def set_limits(limits: dict[str, int]) -> None:
    """Limit time, memory, output and files for good; the call that would raise them is refused later."""
    seconds = limits["cpu_seconds"]
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, *[limits["memory_bytes"]] * 2),
        (resource.RLIMIT_FSIZE, *[limits["output_bytes"]] * 2),
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def close_in(read_library: bool, parent: int) -> None:
    """Give up everything but computing. Raises OSError where the machine has no such guard."""
    if not _AUDIT_ARCH:
        raise OSError(f"prl has no list of system calls for {platform.machine()}; it has x86_64 and aarch64")
    _call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the parent
    if os.getppid() != parent:  # which may have ended before
        os._exit(1)
    _call("prctl", 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no handler of crashes gets to see the process
    _drop_rights()
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which both guards ask for
    can_read = read_library and _only_library()
    if not can_read:
        for name in _LOADED.split():
            importlib.import_module(name)
    _filter_calls(can_read)


def _call(name: str, *arguments: Any) -> int:
    function = getattr(_LIBC, name)
    numbers = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if (found := function(*numbers)) < 0:
        raise OSError(ctypes.get_errno(), f"{name} failed: {os.strerror(ctypes.get_errno())}")
    return found


_LIBC = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int32)]


def _drop_rights() -> None:
    """Give up every capability, which root and some containers have."""
    for capability in range(64):
        with contextlib.suppress(OSError):  # one that this kernel does not know, or a user who has none to drop
            _call("prctl", 24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    none = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice 32 bits each
    _call("syscall", (126, 91)[_COLUMN], ctypes.byref(_Header(0x20080522, 0)), none)  # capset


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def _only_library() -> bool:
    """Let the process read the library of Python and no other file, by Landlock; return whether the kernel has it."""
    create, add, restrict = 444, 445, 446
    try:
        version = _call("syscall", create, None, 0, 1)
    except OSError:
        return False
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1  # every right that this version knows
    rules = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = _call("syscall", create, ctypes.byref(rules), size, 0)
    for path, read in _readable():
        folder = os.open(path, os.O_PATH)
        _call("syscall", add, handle, 1, ctypes.byref(_Beneath(read, folder)), 0)
        os.close(folder)
    _call("syscall", restrict, handle, 0)
    os.close(handle)
    return True


def _readable() -> list[tuple[str, int]]:
    """List what may be read, with Landlock's rights: Python's library, and of its folder no packages."""
    file, listing = 4, 8
    found = []
    for path in filter(os.path.exists, sys.path):
        if not os.path.isdir(path):
            found.append((path, file))
            continue
        found.append((path, listing))
        for entry in os.scandir(path):
            if entry.name not in ("site-packages", "dist-packages"):
                found.append((entry.path, file | listing if entry.is_dir() else file))
    return found


class _Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step))]


def _filter_calls(can_read: bool) -> None:
    """Refuse every system call that is not on the list, by seccomp; files open for reading, or not at all."""
    load, equal, any_of, at_least, leave = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    number, architecture, third_argument = 0, 4, 32
    calls = {**_HARMLESS, **(_OF_FILES if can_read else {})}
    steps = [(load, 0, 0, architecture), (equal, 1, 0, _AUDIT_ARCH), (leave, 0, 0, kill), (load, 0, 0, number)]
    for numbers in calls.values():
        steps += [(equal, 0, 1, numbers[_COLUMN]), (leave, 0, 0, allow)]
    for numbers, argument, bound in _BOUNDED.values():
        steps += [(equal, 0, 4, numbers[_COLUMN]), (load, 0, 0, argument), (at_least, 1, 0, bound)]
        steps += [(leave, 0, 0, allow), (leave, 0, 0, refuse)]
    if can_read:
        steps += [(equal, 0, 3, _OPENAT[_COLUMN]), (load, 0, 0, third_argument), (any_of, 1, 0, _WRITES)]
        steps += [(leave, 0, 0, allow)]
    steps += [(leave, 0, 0, refuse)]
    program = _Program(len(steps), (_Step * len(steps))(*(_Step(*step) for step in steps)))
    _call("prctl", 22, 2, ctypes.byref(program), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---- the code


def run(code: str, function: str | None, arguments: list[Any]) -> dict[str, Any]:
    """Run code, call its function where one is named, and describe how it ended."""
    spare = bytearray(4 << 20)  # freed to say that memory ran out
    try:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(code, NAME, "exec"), names)
        if function is None:
            value = None
        elif not callable(names.get(function)):
            return {"ending": "error", "reason": f"the code has no function {function!r}"}
        else:
            value = names[function](*arguments)
        sys.stdout.flush()
        return {"ending": "done", "value": value}
    except BaseException as error:
        del spare
        return {"ending": _ending(error), "reason": _told(error)}


def _ending(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "output"
    kinds = {MemoryError: "memory", PermissionError: "refused"}
    return next((ending for kind, ending in kinds.items() if isinstance(error, kind)), "error")


def _told(error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}"[:300] + where


def _written(answer: dict[str, Any], most: int) -> str:
    try:
        text = json.dumps(answer)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"ending": "error", "reason": f"the result is no JSON: {error}"[:300]})
    if len(text) >= most:
        return json.dumps({"ending": "output", "reason": f"the result has {len(text)} bytes"})
    return text


def main() -> None:
    """Read the request, close the process in, run the code, and answer."""
    answers = os.dup(2)
    os.dup2(1, 2)
    request = json.load(sys.stdin)
    set_limits(request["limits"])
    try:
        close_in(request["read_library"], request["parent"])
    except OSError as error:
        os.write(answers, str(error).encode())
        os._exit(1)
    answer = run(request["code"], request["function"], request["arguments"])
    text = _written(answer, request["limits"]["output_bytes"])
    with contextlib.suppress(OSError):  # what was printed did not fit
        sys.stdout.flush()
    os.write(answers, text.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
