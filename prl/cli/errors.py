"""Errors that the user can fix, and their wording."""

import linecache
import sys
import threading
import traceback

from prl.checkpoints.resolve import RunError
from prl.system.full_disk import is_disk_full


def is_utf8(text: str) -> bool:
    """Return whether a name is valid UTF-8; Python reads other bytes as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def mistake_behind(error: Exception, arguments: list[str]) -> Exception | None:
    """Find the error to show in place of a traceback; None for an error that is no mistake of the user."""
    return _not_utf8(error, arguments) or _user_error(error) or (error if is_disk_full(error) else None)


def told_by_thread(failure: threading.ExceptHookArgs) -> None:
    """Show an error of a thread, unless it reports a full disk.

    TensorBoard writes in a thread; on a full disk the run itself gets the error at its next metric, and reports it.
    """
    if not is_disk_full(failure.exc_value):
        threading.__excepthook__(failure)


def _not_utf8(error: BaseException | None, arguments: list[str]) -> Exception | None:
    """Explain that a library cannot read a name on the command line."""
    bad = [text for text in arguments if not is_utf8(text)]
    while error is not None and not isinstance(error, UnicodeEncodeError) and is_utf8(str(error)):
        error = error.__cause__ or error.__context__
    if error is None or not bad:
        return None
    return RunError(f"{bad[0]!r} is not UTF-8, which a library in use cannot take; rename it")


def _user_error(error: BaseException | None) -> Exception | None:
    """Find prl's own ValueError behind an exception: a mistake of the user, in words (PRL_DEBUG=1 shows the traceback).

    jsonargparse and Lightning wrap the errors of constructors; the innermost message is the one written for the user.
    Without one, take Lightning's own error for an impossible setting, such as a missing GPU.
    """
    misconfigured = error if isinstance(error, Exception) and _is_lightnings(error) else None
    while error is not None:
        frames = list(traceback.walk_tb(error.__traceback__))
        if isinstance(error, ValueError) and frames:
            frame, line = frames[-1]
            package = frame.f_globals["__name__"].partition(".")[0]
            # Raised by a statement of ours, not by a built-in that one of our lines called.
            deliberate = linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")
            if deliberate and package in ("prl", "lightning_modules", "datamodules"):
                return error
        error = error.__cause__
    return misconfigured


def _is_lightnings(error: Exception) -> bool:
    """Return whether Lightning refused a setting; where Lightning was never imported, it refused none."""
    if "lightning" not in sys.modules:
        return False
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)
