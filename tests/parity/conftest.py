import pytest

from tests.helpers.implementations import Implementation, usable

ON_CUDA = [pytest.param(name, marks=pytest.mark.gpu) for name in ("torch-cuda", "cuda")]


@pytest.fixture(scope="session", params=["torch", "cpp", *ON_CUDA])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation that this process has."""
    return usable(request.param)


@pytest.fixture(scope="session", params=["cpp", ON_CUDA[1]])
def compiled(request: pytest.FixtureRequest) -> Implementation:
    """Each compiled kernel that this process has."""
    return usable(request.param)


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each type of device, whichever implementation it has."""
    return usable("torch" if request.param == "cpu" else "torch-cuda").device
