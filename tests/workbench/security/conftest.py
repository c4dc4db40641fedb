"""The app with default settings, and the app reachable from other computers."""

from collections.abc import Iterator

import pytest

from tests.workbench.security.password import PASSWORD
from tests.workbench.served import Served, serve
from workbench.service.bench import Workbench


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the app with default settings and a finished run."""
    with serve(tmp_path_factory.mktemp("local")) as app:
        app.run("one")
        yield app


@pytest.fixture(scope="session")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the app on all addresses of this computer, with a password; its users may use the folder ``open``."""
    folder = tmp_path_factory.mktemp("exposed")
    (folder / "open").mkdir()
    with serve(folder, host="0.0.0.0", auth=":".join(PASSWORD), folders=(folder / "open",)) as app:
        app.run("one")
        yield app


@pytest.fixture
def bench(app: Served) -> Workbench:
    return app.bench
