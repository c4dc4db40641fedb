"""The app as it starts by default, and as others reach it."""

from collections.abc import Iterator

import pytest

from tests.workbench.security.password import PASSWORD
from tests.workbench.served import Served, serve
from workbench.service.bench import Workbench


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app as it starts by default, with a finished run."""
    with serve(tmp_path_factory.mktemp("local")) as app:
        app.run("one")
        yield app


@pytest.fixture(scope="session")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on all addresses of this computer, with a password; ``open`` is the folder that is open to its users."""
    folder = tmp_path_factory.mktemp("exposed")
    (folder / "open").mkdir()
    with serve(folder, host="0.0.0.0", auth=":".join(PASSWORD), folders=(folder / "open",)) as app:
        app.run("one")
        yield app


@pytest.fixture
def bench(app: Served) -> Workbench:
    return app.bench
