"""A process that has the libraries loaded and forks for each run of pytest: most of a short run is their import.

It has nothing of prl loaded, so each fork reads the copy of the tree that it is told. Requests are lines of JSON on its
input, `{"folder": ..., "tests": [...]}`; the answer to each is a line `{"code": ..., "output": ...}`.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

OWN = ("prl", "lightning_modules", "datamodules", "tests", "__main__")
TAKES = (
    "lightning_modules",
    "datamodules",
    "prl.cli.app",
    "peft",
    "datasets",
    "hypothesis",
    "_pytest.assertion.rewrite",
)
LLAMA = "transformers.models.llama.modeling_llama"
PYTEST = ("-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--timeout", "200")


def libraries() -> list[str]:
    """Names of the modules that prl and its tests load of others."""
    code = f"import sys, {', '.join(TAKES)}, {LLAMA}\nprint('found', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.splitlines()[-1].split()[1:]
    return [name for name in names if name.partition(".")[0] not in OWN]


def run(folder: str, tests: list[str]) -> tuple[int, str]:
    """Run tests in a fork, in a folder: the exit code and what was printed."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            code = 70
            try:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                os.chdir(folder)
                os.environ["PYTHONPATH"] = folder
                sys.path[:] = [folder, *(each for each in sys.path if not Path(each or ".", "prl").is_dir())]
                import pytest

                code = int(pytest.main([*PYTEST, *tests]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        file.seek(0)
        return os.waitstatus_to_exitcode(status), file.read().decode(errors="replace")


def main() -> None:
    """Load, then answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in libraries():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    for line in sys.stdin:
        code, output = run(**json.loads(line))
        print(json.dumps({"code": code, "output": output}), file=answers, flush=True)


if __name__ == "__main__":
    main()
