import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny import tiny_tokenizer, write_tiny_model

# Models this small are faster on one thread, and a second one waits for the first wherever the machine is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# The same examples on every machine and no time limit per example: a loaded machine is no failure.
hypothesis.settings.register_profile("prl", deadline=None, derandomize=True)
hypothesis.settings.load_profile("prl")


MEASURED = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> dict[str, float]:
    """Numbers that tests find, by name: printed at the end of the session."""
    return pytestconfig.stash.setdefault(MEASURED, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist: it hands over what it found
        session.config.workeroutput["measured"] = session.config.stash.get(MEASURED, {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise the limit of slow tests: on a loaded machine they take many minutes, and the limit only ends a hang."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    found = node.config.stash.setdefault(MEASURED, {})
    for name, number in getattr(node, "workeroutput", {}).get("measured", {}).items():
        found[name] = max(found.get(name, number), number)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, number in sorted(config.stash.get(MEASURED, {}).items()):
        terminalreporter.write_line(f"{name}: {number:.2g}")


@pytest.fixture(scope="session", autouse=True)
def _caches_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PRL_HOME"] = str(tmp_path_factory.mktemp("prl_home"))


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    environment, dtype = dict(os.environ), torch.get_default_dtype()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a random two-layer Llama with its tokenizer. Read only: tests that change a folder write their own."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
