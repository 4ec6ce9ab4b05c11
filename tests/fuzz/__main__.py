"""Runs the targets: see the package. Ends with 1 if one of them raised what it must not, and keeps those inputs."""

import argparse
import faulthandler
import importlib
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import tests.fuzz as fuzz

TIME_LIMIT = 60
"""Seconds for one input; reading one that takes longer counts as a failure."""


class TooSlow(BaseException):
    """Raised inside a reader; nothing there takes it for a file that cannot be read."""


def input_of(target: Any, number: int) -> tuple[str, bytes]:
    """Input number n of a target: a pure function of the two."""
    draw = random.Random(f"{target.__name__} {number}")
    good = target.inputs()
    if hasattr(target, "changed"):
        return target.changed(draw, good)
    name = draw.choice(sorted(good))
    return name, fuzz.mutated(draw, good[name], good[draw.choice(sorted(good))])


def failure(target: Any, path: Path) -> tuple[str, str] | None:
    """Return the error that reading an input must not raise: where and of which class, and the traceback."""
    signal.alarm(TIME_LIMIT)
    try:
        target.read(path)
    except getattr(target, "EXPECTED", ValueError):
        return None
    except (Exception, TooSlow) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{place.filename}:{place.lineno} {type(error).__name__}", traceback.format_exc()
    finally:
        signal.alarm(0)
    return None


def run(target: Any, seconds: float, first: int, kept: Path) -> int:
    """Try inputs for a while; the number of different failures. An input that kills the process stays in `kept`."""
    end, number, seen = time.monotonic() + seconds, first, set()
    while time.monotonic() < end:
        name, content = input_of(target, number)
        folder = kept / f"{target.__name__}-{number}"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
        origin, wrong = failure(target, folder / name) or (None, "")
        if origin is None or origin in seen:
            shutil.rmtree(folder)
        else:
            seen.add(origin)
            sys.stdout.write(f"{target.__name__}, input {number}, {folder / name}:\n{wrong}")
        number += 1
    sys.stdout.write(f"{target.__name__}: {number - first} inputs, {len(seen)} different failures\n")
    return len(seen)


def too_long(*_: Any) -> None:
    raise TooSlow(f"not read within {TIME_LIMIT} s")


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(fuzz.__path__) if module.name != "__main__"]
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=fuzz.__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to try others or one again")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(names)}")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_long)
    kept = Path(tempfile.mkdtemp(prefix="prl-fuzz-"))
    failures = 0
    for name in options.targets or names:
        failures += run(importlib.import_module(f"tests.fuzz.{name}"), options.seconds, options.first, kept)
    if not any(kept.iterdir()):
        kept.rmdir()
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
