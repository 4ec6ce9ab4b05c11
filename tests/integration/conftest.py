from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from torch.utils.tensorboard import writer

from lightning_modules import PairwisePPOModule
from prl.types import Experience
from tests.integration.runs import Home, build_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Make a small world with a random model for each role; read only."""
    return build_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", autouse=True)
def _figures_without_paint() -> Iterator[None]:
    """Make every figure, and paint none: painting takes most of the time of a tiny run that validates.

    The files that look at images have a fixture of this name that paints.
    """

    def unpainted(figures: Any, close: bool = True) -> np.ndarray:
        for figure in figures if isinstance(figures, list) else [figures]:
            assert figure.axes
            plt.close(figure)
        return np.zeros((3, 1, 1), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "figure_to_image", unpainted)
        yield


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prl"])  # LightningCLI warns about arguments that a program was started with


@pytest.fixture
def experiences(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Experience]]:
    """Record the experience of each iteration, as the update receives it."""
    seen: list[Experience] = []
    update = PairwisePPOModule.update

    def watching(self: PairwisePPOModule, experience: Experience) -> dict[str, float]:
        seen.append(experience)
        return update(self, experience)

    monkeypatch.setattr(PairwisePPOModule, "update", watching)
    return seen
