"""Which errors are the user's to mend, and in what words they are told."""

import linecache
import sys
import threading
import traceback

from prl.checkpoints.resolve import RunError
from prl.system.full_disk import is_disk_full


def is_utf8(text: str) -> bool:
    """Whether a name can be written; the bytes of one that is not UTF-8 are halves of characters to Python."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def mistake_behind(error: Exception, arguments: list[str]) -> Exception | None:
    """What to tell the user of an error in place of a traceback; None for one that is no mistake of theirs."""
    return _not_utf8(error, arguments) or _user_error(error) or (error if is_disk_full(error) else None)


def told_by_thread(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; on a full disk the run gets the error at its next number, and tells it."""
    if not is_disk_full(failure.exc_value):
        threading.__excepthook__(failure)


def _not_utf8(error: BaseException | None, arguments: list[str]) -> Exception | None:
    """What to say where a library cannot take a name that was given."""
    bad = [text for text in arguments if not is_utf8(text)]
    while error is not None and not isinstance(error, UnicodeEncodeError) and is_utf8(str(error)):
        error = error.__cause__ or error.__context__
    if error is None or not bad:
        return None
    return RunError(f"{bad[0]!r} is not UTF-8, which a library in use cannot take; rename it")


def _user_error(error: BaseException | None) -> Exception | None:
    """The ValueError of prl behind an exception: a mistake in what was given, told in words (PRL_DEBUG=1 shows where).

    jsonargparse and Lightning wrap what a constructor raises; the innermost message is the one written for the user.
    Without one, Lightning's own word for settings that cannot be had, such as a GPU that is not there.
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
    """Whether Lightning refuses a setting; where it was never imported, it has refused none."""
    if "lightning" not in sys.modules:
        return False
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)
