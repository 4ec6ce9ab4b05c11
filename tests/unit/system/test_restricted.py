"""Hostile code in a restricted process: every attempt is refused by the kernel or ended by a limit, and told apart.

Attempts go through ctypes where Python's own functions could be guarded by something weaker than the kernel.
"""

import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.system import restricted
from prl.system.restricted import Limits, Outcome, RestrictedError, check_restricted, run_code

try:
    check_restricted()
    MISSING = ""
except RestrictedError as error:
    MISSING = str(error)
guarded = pytest.mark.skipif(bool(MISSING), reason=MISSING)
ROOMY = Limits(wall_seconds=60)
"""For tests of what is refused, on a busy machine."""
LANDLOCK = 444


def has_landlock() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(ctypes.c_long(LANDLOCK), None, ctypes.c_long(0), ctypes.c_long(1))) > 0


@pytest.fixture(params=[True, False], ids=["library", "no files"])
def read_library(request: pytest.FixtureRequest) -> bool:
    """Both sets of guards: with Landlock, and what takes its place on kernels without it."""
    if request.param and not has_landlock():
        pytest.skip("this kernel has no Landlock, so code runs without files at all")
    return bool(request.param)


def refused(outcome: Outcome) -> None:
    assert (outcome.ending, outcome.value) == ("refused", None), outcome


# ---- what it is for


@guarded
def test_a_function_is_called_and_its_prints_are_kept(read_library: bool) -> None:
    code = "import math\ndef area(r, given):\n    print('radius', r)\n    return {'area': math.pi * r * r, **given}"
    outcome = run_code(code, "area", [2.0, {"unit": "m", "not": None}], ROOMY, read_library=read_library)
    assert outcome.ending == "done"
    assert outcome.value == {"area": pytest.approx(12.566370614359172), "unit": "m", "not": None}
    assert outcome.printed == "radius 2.0\n"


@guarded
def test_code_without_a_function_prints() -> None:
    assert run_code("print(sum(range(10)))", limits=ROOMY) == Outcome("done", None, "45\n", "")


@guarded
def test_modules_of_python_are_there_and_packages_are_not(read_library: bool) -> None:
    code = "import datetime, statistics, decimal, random, re\nprint(datetime.date(2024, 2, 29).weekday())"
    assert run_code(code, limits=ROOMY, read_library=read_library).printed == "3\n"
    assert "numpy" in run_code("import numpy", limits=ROOMY, read_library=read_library).reason


@guarded
def test_sets_have_the_same_order_every_time() -> None:
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g'}))"
    assert run_code(code, limits=ROOMY).printed == run_code(code, limits=ROOMY).printed


@guarded
@pytest.mark.parametrize(
    ("code", "function", "told"),
    [
        ("def f(:", None, "SyntaxError"),
        ("x = 1\ny = x / 0", None, "ZeroDivisionError: division by zero (line 2)"),
        ("def f(): return f()\nf()", None, "RecursionError"),
        ("raise SystemExit(3)", None, "SystemExit: 3"),
        ("raise KeyboardInterrupt", None, "KeyboardInterrupt"),
        ("x = 1", "reward", "no function 'reward'"),
        ("reward = 3", "reward", "no function 'reward'"),
        ("def reward(): return {1, 2}", "reward", "no JSON"),
        ("def reward(x): return x", "reward", "missing 1 required positional argument"),
        ("input()", None, "EOFError"),
    ],
)
def test_code_that_fails_says_why(code: str, function: str | None, told: str) -> None:
    outcome = run_code(code, function, limits=ROOMY)
    assert (outcome.ending, outcome.value) == ("error", None)
    assert told in outcome.reason


# ---- the network


@guarded
def test_no_socket_and_no_name(read_library: bool) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        port = listening.getsockname()[1]
        # Raw calls, so that no module of Python is in the way; the last one is by its number, past the C library.
        code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def told(found): return [found, ctypes.get_errno() == errno.EPERM]
def attempt(number):
    return [told(libc.socket(family, kind, 0)) for family in (1, 2, 10, 16, 17) for kind in (1, 2, 3)] + [
        told(libc.socketpair(1, 1, 0, ctypes.create_string_buffer(8))), told(libc.syscall(number, 2, 1, 0))
    ] + [libc.getaddrinfo(b"localhost", b"{port}", None, ctypes.byref(ctypes.c_void_p())) != 0 or "numeric"]
"""
        number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
        outcome = run_code(code, "attempt", [number], ROOMY, read_library=read_library)
        *sockets, _ = outcome.value
        assert sockets == [[-1, True]] * 17
        listening.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listening.accept()


@guarded
def test_python_s_own_socket_and_resolver_are_refused() -> None:
    if not has_landlock():
        pytest.skip("this kernel has no Landlock, so code cannot import socket")
    refused(run_code("import socket\nsocket.create_connection(('127.0.0.1', 9))", limits=ROOMY))
    resolved = run_code("import socket\nprint(socket.gethostbyname('example.com'))", limits=ROOMY)
    assert resolved.ending in ("error", "refused")
    assert resolved.printed == ""


# ---- files

TRIES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(folder, arch):
    kept, new = os.path.join(folder, "kept").encode(), os.path.join(folder, "new").encode()
    number = {"x86_64": {"open": 2, "creat": 85, "openat2": 437, "truncate": 76, "io_uring_setup": 425}}.get(arch, {})
    tries = [
        lambda: libc.open(kept, os.O_RDONLY),
        lambda: libc.open(kept, os.O_WRONLY),
        lambda: libc.open(kept, os.O_RDWR),
        lambda: libc.open(kept, os.O_RDONLY | os.O_TRUNC),
        lambda: libc.open(kept, os.O_WRONLY | os.O_APPEND),
        lambda: libc.open(new, os.O_CREAT | os.O_RDONLY, 0o600),
        lambda: libc.open(folder.encode(), os.O_TMPFILE | os.O_RDWR, 0o600),
        lambda: libc.unlink(kept),
        lambda: libc.rename(kept, new),
        lambda: libc.link(kept, new),
        lambda: libc.symlink(kept, new),
        lambda: libc.mkdir(new, 0o700),
        lambda: libc.rmdir(folder.encode()),
        lambda: libc.truncate(kept, 0),
        lambda: libc.chmod(kept, 0),
        lambda: libc.chown(kept, 1, 1),
        lambda: libc.utime(kept, None),
        lambda: libc.mkfifo(new, 0o600),
        lambda: libc.setxattr(kept, b"user.a", b"b", 1, 0),
        lambda: libc.memfd_create(b"a", 0),
        lambda: libc.mount(b"none", folder.encode(), b"tmpfs", 0, None),
        lambda: libc.chroot(folder.encode()),
        lambda: libc.chdir(folder.encode()),
        lambda: libc.unshare(0x10000000),
        lambda: libc.execv(b"/bin/true", None),
        lambda: libc.syscall(number.get("open", -1), kept, 0),
        lambda: libc.syscall(number.get("creat", -1), new, 0o600),
        lambda: libc.syscall(437, -100, kept, None, 24),
        lambda: libc.syscall(425, 8, None),
    ]
    return [each() for each in tries]
"""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Make a folder that anybody may write to, so that nothing but the guards is in the way."""
    (tmp_path / "kept").write_text("a secret")
    (tmp_path / "kept").chmod(0o666)
    tmp_path.chmod(0o777)
    yield tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (tmp_path / "kept").read_text() == "a secret"
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o666


@guarded
def test_no_file_outside_is_read_written_made_or_deleted(outside: Path, read_library: bool) -> None:
    outcome = run_code(TRIES, "attempt", [str(outside), platform.machine()], ROOMY, read_library=read_library)
    assert outcome.ending == "done", outcome
    assert set(outcome.value) == {-1}


@guarded
@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+"])
def test_python_s_own_open_is_refused(outside: Path, mode: str, read_library: bool) -> None:
    path = outside / ("new" if mode == "x" else "kept")
    refused(run_code(f"open({str(path)!r}, {mode!r})", limits=ROOMY, read_library=read_library))
    refused(run_code(f"import os\nos.remove({str(outside / 'kept')!r})", limits=ROOMY, read_library=True))


@guarded
def test_python_s_library_is_not_written(read_library: bool) -> None:
    """What may be read is not open for truncating either: the first versions of Landlock leave that to us."""
    path, *_ = (each for each in sys.path if Path(each, "os.py").is_file())
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):
        code = f"import os\nos.open({str(Path(path, 'this.py'))!r}, {flags})"
        refused(run_code(code, limits=ROOMY, read_library=read_library))
    assert Path(path, "this.py").stat().st_size > 500


@guarded
def test_without_the_library_no_file_at_all_is_read() -> None:
    refused(run_code(f"open({os.__file__!r})", limits=ROOMY, read_library=False))


@guarded
def test_its_own_folder_takes_no_file() -> None:
    refused(run_code("open('new', 'w')", limits=ROOMY))
    assert run_code("import os\nprint(os.getcwd())", limits=ROOMY).printed == "/\n"


# ---- what is inherited


@guarded
def test_no_environment_and_no_open_files(monkeypatch: pytest.MonkeyPatch, outside: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with (outside / "kept").open() as file:
        os.set_inheritable(file.fileno(), True)
        code = """
import os
def attempt():
    open_files = []
    for number in range(3, 64):
        try: os.fstat(number); open_files.append(number)
        except OSError: pass
    return [sorted(os.environ), [os.lseek(each, 0, 1) for each in (0, 1, 2)], [os.fstat(n).st_size for n in open_files]]
"""
        names, _, sizes = run_code(code, "attempt", limits=ROOMY).value
    assert set(names) <= {"PYTHONHASHSEED", "LC_CTYPE"}
    assert sizes in ([], [0])  # the file of its own answer
    assert "sk-secret" not in json.dumps(names)


@guarded
def test_proc_of_nobody_is_read(read_library: bool) -> None:
    names = ("environ", "mem", "maps", "cmdline", "fd", "root/etc/passwd", "cwd")
    paths = [f"/proc/{who}/{name}" for who in (os.getpid(), "self", "thread-self", 1) for name in names]
    code = """
import ctypes, os
def attempt(paths):
    return [ctypes.CDLL(None).open(path.encode(), flags) for path in paths for flags in (os.O_RDONLY, os.O_RDWR)]
"""
    outcome = run_code(code, "attempt", [paths], ROOMY, read_library=read_library)
    assert set(outcome.value) == {-1}


# ---- processes

PROCESSES = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def told(found): return [found, ctypes.get_errno()]
def attempt(parent):
    buffer = ctypes.create_string_buffer(64)
    tries = {
        "fork": lambda: libc.fork(), "kill": lambda: libc.kill(parent, 9), "kill group": lambda: libc.killpg(parent, 9),
        "kill all": lambda: libc.kill(-1, 0), "ptrace": lambda: libc.ptrace(16, parent, None, None),
        "read memory": lambda: libc.process_vm_readv(parent, buffer, 1, buffer, 1, 0),
        "tgkill": lambda: libc.tgkill(parent, parent, 9), "nice": lambda: libc.setpriority(0, parent, 19),
        "limits": lambda: libc.setrlimit(9, buffer), "limits of parent": lambda: libc.prlimit(parent, 9, buffer, None),
        "own signal by file": lambda: libc.fcntl(1, 8, parent), "session": lambda: libc.setsid(),
        "prctl": lambda: libc.prctl(1, 0, 0, 0, 0), "queue": lambda: libc.sigqueue(parent, 9, 0),
        "pidfd": lambda: libc.syscall(434, parent, 0), "clone3": lambda: libc.syscall(435, buffer, 64),
        "keys": lambda: libc.syscall(250, 0, -3, 0), "bpf": lambda: libc.syscall(321, 0, buffer, 64),
    }
    return {name: told(each()) for name, each in tries.items()}
"""


@guarded
def test_no_process_is_started_signalled_traced_or_read(read_library: bool) -> None:
    # A process that may be killed stands for the parent.
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        try:
            outcome = run_code(PROCESSES, "attempt", [other.pid], ROOMY, read_library=read_library)
            assert outcome.ending == "done", outcome
            assert {name: found for name, (found, _) in outcome.value.items() if found != -1} == {}
            assert {name for name, (_, number) in outcome.value.items() if number != 1} == set()
            assert other.poll() is None
        finally:
            other.kill()


@guarded
def test_a_fork_bomb_and_threads_do_not_start() -> None:
    refused(run_code("import os\nwhile True: os.fork()", limits=ROOMY))
    started = run_code("import threading\nthreading.Thread(target=print).start()", limits=ROOMY)
    assert (started.ending, started.printed) == ("error", "")


# ---- limits


@guarded
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"],
    ids=["loop", "deaf loop"],
)
def test_a_loop_ends_by_its_cpu_time(code: str) -> None:
    outcome = run_code(code, limits=Limits(cpu_seconds=1, wall_seconds=120))
    assert (outcome.ending, outcome.reason) == ("timeout", "it took more than 1 s of CPU time")


@guarded
def test_sleep_ends_by_the_clock_and_leaves_no_process() -> None:
    outcome = run_code("print('begun', flush=True)\nimport time\ntime.sleep(600)", limits=Limits(wall_seconds=3))
    assert (outcome.ending, outcome.printed, outcome.reason) == ("timeout", "begun\n", "it took more than 3 s")


@guarded
@pytest.mark.parametrize(
    "code", ["bytearray(8 << 30)", "x = []\nwhile True: x.append(bytearray(1 << 20))", "'a' * (8 << 30)"]
)
def test_memory_has_an_end(code: str) -> None:
    assert run_code(code, limits=Limits(cpu_seconds=60, memory_mib=128, wall_seconds=120)).ending == "memory"


@guarded
@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1000)",
        "import os\nwhile True:\n    try: os.write(1, b'x' * 4096)\n    except OSError: break",
        "import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'x')",
    ],
    ids=["prints", "goes on after the error", "writes far behind the end"],
)
def test_printing_has_an_end(code: str) -> None:
    outcome = run_code(code, limits=Limits(output_kib=64, wall_seconds=60))
    assert outcome.ending == "output"
    assert len(outcome.printed) <= 64 << 10


@guarded
def test_a_result_has_an_end() -> None:
    outcome = run_code("def f(): return 'x' * 100000", "f", limits=Limits(output_kib=64, wall_seconds=60))
    assert (outcome.ending, outcome.value) == ("output", None)


@guarded
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import ctypes\nctypes.string_at(0)", "signal 11"),
        ("import os\nos._exit(0)", "code 0"),
        ("import os\nos._exit(7)", "code 7"),
        ("import os\nos.write(3, b'no JSON')\nos._exit(0)", "code 0: no JSON"),
        ("import os\nos.write(3, b'{}')\nos._exit(0)", "no result"),
        ('import os\nos.write(3, b\'{"ending": ["done"]}\')\nos._exit(0)', "no result"),
        ("import os\nos.write(3, b'[' * 100000)\nos._exit(0)", "code 0"),
    ],
)
def test_a_process_that_dies_is_a_crash(code: str, told: str) -> None:
    outcome = run_code(code, limits=ROOMY)
    assert (outcome.ending, outcome.value) == ("crash", None)
    assert told in outcome.reason


@guarded
@settings(max_examples=12, deadline=None)
@given(st.text(max_size=60))
def test_whatever_the_code_is_the_outcome_is_one_of_ours(code: str) -> None:
    assert run_code(code, limits=ROOMY).ending in ("done", "error")


@guarded
def test_several_threads_run_code_at_once() -> None:
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = run_code("def f(x): return x * x", "f", [number], ROOMY).value

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number * number for number in range(4)}


@guarded
def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """A trainer that is killed leaves no code running."""
    waiter = (
        "import sys\nfrom prl.system.restricted import *\n"
        "run_code('import time\\nprint(1, flush=True)\\ntime.sleep(600)', limits=Limits(wall_seconds=500))"
    )
    with subprocess.Popen([sys.executable, "-c", waiter]) as parent:
        try:
            children: set[int] = set()
            end = time.monotonic() + 60
            while time.monotonic() < end and not children:
                children = {
                    pid for pid in _children(parent.pid) if b"restricted_child" in _command(pid) and _is_closed_in(pid)
                }
                time.sleep(0.05)
            assert children
        finally:
            parent.kill()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(b"restricted_child" in _command(pid) for pid in children):
        time.sleep(0.05)
    assert not [pid for pid in children if b"restricted_child" in _command(pid)]


def _children(pid: int) -> set[int]:
    try:
        return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_closed_in(pid: int) -> bool:
    try:
        return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@guarded
def test_a_process_whose_parent_has_ended_before_it_was_closed_in_does_not_begin(monkeypatch: Any) -> None:
    monkeypatch.setattr(restricted.os, "getpid", lambda: 1)
    assert restricted._run("print('ran')", None, [], ROOMY, True).printed == ""


@guarded
def test_root_has_no_rights_either() -> None:
    code = """
import ctypes, ctypes.util
def tried():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
    first = libc.mmap(None, 4096, 3, 0x32, -1, 0)  # the first page, which takes a right of its own
    return {
        "the first page": first != 2**64 - 1,  # 0 comes as None
        "broken hardware": libc.madvise(ctypes.c_void_p(page), 4096, 101) == 0,
        "its own advice": libc.madvise(ctypes.c_void_p(page), 4096, 4) == 0,
    }
"""
    least = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
    found = run_code(code, "tried", [], ROOMY).value
    assert found["its own advice"]
    assert not found["broken hardware"]
    assert least == 0 or not found["the first page"]


@guarded
def test_clocks_of_other_processes_are_refused() -> None:
    code = "import time\ndef read(clock): return time.clock_gettime(clock)"
    assert run_code(code, "read", [time.CLOCK_PROCESS_CPUTIME_ID], ROOMY).ending == "done"
    refused(run_code(code, "read", [(~os.getpid() << 3) | 2], ROOMY))


@guarded
def test_packages_in_the_folder_of_the_library_are_not_read(tmp_path: Path) -> None:
    code = "import os, sys\ndef found(name):\n    return os.listdir(os.path.dirname(os.__file__) + '/' + name)"
    folders = [each for each in ("site-packages", "dist-packages") if (Path(os.__file__).parent / each).is_dir()]
    packages = [p for each in folders for p in (Path(os.__file__).parent / each).glob("*/__init__.py")]
    read = "import os\ndef read(path):\n    return len(open(path).read())"
    for package in packages[:3]:
        refused(run_code(read, "read", [str(package)], ROOMY))
    assert run_code(code, "found", ["json"], ROOMY).ending == "done"
    assert run_code(read, "read", [json.__file__], ROOMY).value > 0


@guarded
def test_what_it_says_is_one_line_of_text() -> None:
    found = run_code("raise ValueError('\\ud800 \\x1b]0;title\\n\\nmore')", limits=ROOMY)
    assert found.ending == "error"
    assert found.reason.isprintable()
    assert "title" in found.reason
    printed = run_code("import os; os.write(1, b'\\xff' * 1000)", limits=ROOMY)
    assert (printed.ending, len(printed.printed)) == ("done", 1000)
    half = Limits(wall_seconds=60, output_kib=2)  # 3000 bytes in UTF-8, where each is replaced by a longer sign
    assert run_code("import os; os.write(1, b'\\xff' * 1000)", limits=half).ending == "done"


# ---- machines without guards


@pytest.mark.skipif(
    not Path("/proc/sys/kernel/seccomp").is_dir() or platform.machine() not in ("x86_64", "aarch64"),
    reason="this kernel has no seccomp, or prl has no list of its system calls",
)
def test_a_machine_with_guards_is_not_refused() -> None:
    """Without this, tests would be skipped where the guards have a fault."""
    assert MISSING == ""


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(RestrictedError, match="runs on Linux alone"):
        run_code("print(1)")


@guarded
@pytest.mark.parametrize(
    ("removed", "told"),
    [
        ('    _call("prctl", 22, 2, ctypes.byref(program), 0, 0)', "could open a socket"),
        ("    _filter_calls(can_read)", "could open a socket"),
        ('{"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}', "has no list of system calls"),
    ],
)
def test_guards_that_do_not_hold_are_found_before_code_runs(
    removed: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a kernel that takes a filter and does not obey it, or on another machine."""
    text = restricted.PROGRAM.read_text()
    assert removed in text
    indent = removed[: len(removed) - len(removed.lstrip())]
    broken = tmp_path / "restricted_child.py"
    broken.write_text(text.replace(removed, f"{indent}pass" if indent else "{}"))
    monkeypatch.setattr(restricted, "PROGRAM", broken)
    restricted._tried.cache_clear()
    try:
        with pytest.raises(RestrictedError, match=told):
            run_code(f"open({str(tmp_path / 'ran')!r}, 'w')")
        assert not (tmp_path / "ran").exists()
    finally:
        restricted._tried.cache_clear()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("cpu_seconds", 0), ("wall_seconds", 0), ("memory_mib", 8), ("output_kib", 0), ("wall_seconds", float("nan"))],
)
def test_limits_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"limits.{setting} is"):
        Limits(**{setting: value})  # type: ignore[arg-type]
