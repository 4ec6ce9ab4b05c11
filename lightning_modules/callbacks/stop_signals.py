"""Signals and lost output as requests to stop, which the run polls where its state is consistent."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

import torch

from prl.distributed import global_max
from prl.system import terminal
from prl.system.signals import STOP_SIGNALS


class StoppedRun(SystemExit):
    """Ends the process with a shell's exit code of a signal: 128 + its number, 143 for SIGTERM."""


class StopSignals:
    """Records signals and does nothing else in the handler.

    Lightning's own handler calls a collective (which hangs when one rank alone is signalled), and its flag is read
    between batches on rank 0 only; for SLURM's SIGUSR1 it saves in the middle of an iteration. Both are replaced;
    Lightning restores the earlier handlers when the run ends.
    """

    def __init__(self) -> None:
        self.received = 0

    def follow(self, connector: Any) -> None:
        """Replace Lightning's signal handlers as soon as they are installed, before a checkpoint is read."""
        take, give_back = connector.register_signal_handlers, connector.teardown

        def take_and_hand_over() -> None:
            take()
            self.install()
            terminal.listen(self._note_lost_output)

        def give_all_back() -> None:
            terminal.stop_listening(self._note_lost_output)
            give_back()

        connector.register_signal_handlers, connector.teardown = take_and_hand_over, give_all_back

    def install(self) -> None:
        """Install the handlers, after Lightning's. Python allows this in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                # Under nohup, a terminal that hangs up is no request to stop.
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> Any:
        if number == signal.SIGINT:
            if self.received:
                raise StoppedRun(128 + number)  # Lightning turns a KeyboardInterrupt into exit code 1
            with contextlib.suppress(OSError):
                os.write(2, b"\nprl: stopping at the end of this phase; Ctrl-C again stops at once\n")
        self.received = max(self.received, number)

    def _note_lost_output(self) -> None:
        self.received = self.received or terminal.EXIT_CODE - 128  # a terminal that hung up has sent its signal already

    def agreed(self, device: torch.device) -> int:
        """Return the signal that any rank has received, on every rank; 0 for none. Call it where ranks are in step."""
        return int(global_max(torch.tensor(self.received, device=device)))
