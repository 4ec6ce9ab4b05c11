import pytest

from tests.integration.runs import Home, build_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small world with a random model for each role; read only."""
    return build_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prl"])  # LightningCLI warns about arguments that a program was started with
