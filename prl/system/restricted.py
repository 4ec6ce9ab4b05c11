"""Code that nobody has read, of a model, a data set or an endpoint, run in a process that can compute and nothing else.

What the process has, on Linux with x86_64 or aarch64, as root and as any user:

- **No network, processes, signals or writes.** seccomp refuses every system call that is not on a short list, in the
  kernel, before the code starts. Sockets, threads, `ptrace` and opening a file for writing are not on it. There is no
  folder to write to: one could be filled with files, and nothing short of a mount limits that.
- **No reads but Python's own library**, without the packages in its folder, by Landlock (Linux 5.13). Other files can
  be seen to exist, with their sizes, and not be read. Without Landlock no file can be opened at all, and code imports
  only what was loaded before (math, random, re and their like). There are never fewer guards, only fewer modules.
- **No rights**: no capabilities, also as root.
- **Limits** of CPU time, time, memory, open files and output.
- **Nothing inherited**: no environment, no open files, no packages; the working folder is `/`.

Elsewhere there is no such guard and code is refused, without a setting that runs it all the same. Audit hooks of Python
are not used: code can go around them. What is left: code can use up its limits, see the clock, and meet a fault of the
kernel. What it draws and times is not the same twice.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, get_args

from prl.system.json_files import parse_object

Ending = Literal["done", "error", "timeout", "memory", "output", "refused", "crash"]
"""How code ended: it ran; it raised; it took too long; it ran out of memory; it wrote too much; it asked for what it
may not have; its process died."""


PROGRAM = Path(__file__).resolve().with_name("restricted_child.py")
"""What runs in the process; it is not imported here, since not every system has what it needs."""


class RestrictedError(RuntimeError):
    """Raised where this machine cannot keep code from the network, files and processes."""


@dataclass(frozen=True)
class Limits:
    """What code may use. Raises ValueError for a number out of range."""

    cpu_seconds: int = 2
    """CPU time, seconds."""
    wall_seconds: float = 10.0
    """Time from start to end, seconds; more than the CPU time, since the machine may be busy."""
    memory_mib: int = 512
    """Address space, MiB; Python itself takes about 40."""
    output_kib: int = 256
    """Text printed, and the result as JSON: this much of either, KiB."""

    def __post_init__(self) -> None:
        for name, least in (("cpu_seconds", 1), ("wall_seconds", 1e-3), ("memory_mib", 64), ("output_kib", 1)):
            if not least <= getattr(self, name) < 1e6:
                raise ValueError(f"limits.{name} is {getattr(self, name)}; expected at least {least}, below a million")


@dataclass(frozen=True)
class Outcome:
    """How code ended, and what it left."""

    ending: Ending
    value: Any = None
    """What the function returned, read from JSON; None unless done."""
    printed: str = ""
    """What was printed, whichever way the code ended."""
    reason: str = ""
    """Why it did not end well, in a line."""


def check_restricted(*, read_library: bool = True) -> None:
    """Try once whether the guards of this machine hold: code tries a socket, files, a process and a signal.

    Raises:
        RestrictedError: where one of them is not refused, or a guard is missing.
    """
    if not sys.platform.startswith("linux"):
        raise RestrictedError(f"code of others runs on Linux alone, where the kernel guards it; this is {sys.platform}")
    _tried(read_library)


def run_code(
    code: str,
    function: str | None = None,
    arguments: Sequence[Any] = (),
    limits: Limits = Limits(),
    *,
    read_library: bool = True,
) -> Outcome:
    """Run Python code in a restricted process, and call one of its functions; whatever it does, this process goes on.

    Args:
        code: the program.
        function: name of a function in it to call; its result is the value. None runs the program alone.
        arguments: its arguments, as JSON.
        limits: what it may use.
        read_library: let it read Python's own library where Landlock keeps it to that.

    Raises:
        RestrictedError: where this machine cannot guard the process.
    """
    check_restricted(read_library=read_library)
    return _run(code, function, arguments, limits, read_library)


# ---- the process


def _run(code: str, function: str | None, arguments: Sequence[Any], limits: Limits, read_library: bool) -> Outcome:
    most = limits.output_kib << 10
    bounds = {"cpu_seconds": limits.cpu_seconds, "memory_bytes": limits.memory_mib << 20, "output_bytes": most}
    names = {"code": code, "function": function, "arguments": list(arguments)}
    # Files, not pipes: their size is limited by the kernel, and neither side waits for the other.
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as answer:
        asked = {**names, "limits": bounds, "read_library": read_library, "parent": os.getpid()}
        request.write(json.dumps(asked).encode())
        request.seek(0)
        begun = time.monotonic()
        exit_code = _waited(_started(request, printed, answer), limits.wall_seconds)
        seconds, text, told = time.monotonic() - begun, _content(printed, most), _content(answer, most)
        full = os.fstat(printed.fileno()).st_size >= most
    found = _outcome(exit_code, told, text, seconds, limits)
    return Outcome("output", None, text, f"it printed {most} bytes or more") if full else found


def _started(request: IO[bytes], printed: IO[bytes], answer: IO[bytes]) -> "subprocess.Popen[bytes]":
    # No user's or site's packages, no folder of the script, no files of compiled code; hashes are the same every time.
    alone = (sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8")
    return subprocess.Popen(
        [*alone, str(PROGRAM)],
        stdin=request,
        stdout=printed,
        stderr=answer,
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
    )


def _waited(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Wait for the end, and kill the process and its group where it does not come; None where it was too late."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _content(file: IO[bytes], most: int) -> str:
    file.seek(0)
    return file.read(most).decode(errors="replace")


def _outcome(exit_code: int | None, told: str, printed: str, seconds: float, limits: Limits) -> Outcome:
    """Tell how code ended, of which nothing is believed but its own words about itself."""
    if exit_code is None:
        return Outcome("timeout", None, printed, f"it took more than {limits.wall_seconds:g} s")
    if exit_code == -signal.SIGXCPU or (exit_code == -signal.SIGKILL and seconds >= limits.cpu_seconds):
        return Outcome("timeout", None, printed, f"it took more than {limits.cpu_seconds} s of CPU time")
    if exit_code < 0:
        return Outcome("crash", None, printed, f"it was ended by signal {-exit_code}")
    try:
        answer = parse_object(told, with_nan=True)
    except ValueError:
        return Outcome("crash", None, printed, f"it ended with code {exit_code}: {_one_line(told[-300:].strip())}")
    ending: Any = answer.get("ending")
    if ending not in get_args(Ending):
        return Outcome("crash", None, printed, "it gave no result")
    value = answer.get("value") if ending == "done" else None
    return Outcome(ending, value, printed, _one_line(str(answer.get("reason", ""))))


def _one_line(text: str) -> str:
    """Make a text of others fit to be shown: one line, without signs that steer a terminal or are no text."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:400])


# ---- the trial

_TRIAL = """
import ctypes
def allowed(path, parent):
    libc, path = ctypes.CDLL(None), path.encode()
    tries = {
        "open a socket": lambda: libc.socket(2, 1, 0),
        "read a file": lambda: libc.open(path, 0),
        "write a file": lambda: libc.open(path, 1),
        "delete a file": lambda: libc.unlink(path),
        "signal another process": lambda: libc.kill(parent, 0),
        "start a process": lambda: libc.fork() or libc._exit(1),
    }
    return [name for name, attempt in tries.items() if attempt() >= 0]
"""


@cache
def _tried(read_library: bool) -> None:
    with tempfile.NamedTemporaryFile() as bait:
        found = _run(_TRIAL, "allowed", [bait.name, os.getpid()], Limits(wall_seconds=60), read_library)
    if found.ending != "done":
        raise RestrictedError(f"this machine cannot keep code from the network and from files: {found.reason}")
    if found.value != []:
        raise RestrictedError(f"the guards of this machine do not hold: code could {', '.join(found.value)}")
