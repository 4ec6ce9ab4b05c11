"""Silence while weights are read and written: no expected messages of transformers, no progress bars."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import enable_progress_bars
from transformers.utils import logging as logs


@contextmanager
def quiet() -> Iterator[None]:
    """Silence logs of transformers and warnings of torch that are expected, or reported in another way."""
    verbosity = logs.get_verbosity()
    logs.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logs.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide progress bars of weights that are read or written; bars of downloads stay."""
    if not logs.is_progress_bar_enabled():
        yield
        return
    logs.disable_progress_bar()
    enable_progress_bars()  # bars of the hub, which transformers disables with its own
    try:
        yield
    finally:
        logs.enable_progress_bar()
