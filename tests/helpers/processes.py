"""Commands that start processes of their own, none of which outlives the test."""

import os
import signal
import subprocess
from typing import Any


def run_all(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with captured text, but where the test is cut off (by its time limit), every process ends.

    Killing only the first would leave its ranks waiting for each other beside the next tests, which they slow down.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes, **settings) as process:
        try:
            out, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)
