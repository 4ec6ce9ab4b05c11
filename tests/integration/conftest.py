from collections.abc import Iterator

import pytest

from lightning_modules import PairwisePPOModule
from prl.types import Experience
from tests.integration.runs import Home, build_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Make a small world with a random model for each role; read only."""
    return build_home(tmp_path_factory.mktemp("home"))


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
