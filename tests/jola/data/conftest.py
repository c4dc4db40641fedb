"""Fixtures for the tests of assets and of the package index."""

from collections.abc import Iterator

import pytest

from jola.data import assets, package_index
from jola.data.catalogue import Asset
from jola.data.package_index import PipSettings
from tests.jola.data.package_server import ASSET, Index, use


@pytest.fixture
def index() -> Iterator[Index]:
    server = Index()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def thing(index: Index, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset on the index, which is the only one configured."""
    monkeypatch.setitem(assets.ASSETS, ASSET.name, ASSET)
    monkeypatch.setattr(package_index, "RETRY_PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    use(monkeypatch, PipSettings(indexes=(index.url,)))
    return ASSET
