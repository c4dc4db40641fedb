"""The app's `Workbench`, for tests that need no page."""

from collections.abc import Iterator

import pytest

from workbench.service.bench import Workbench
from workbench.settings import Settings


@pytest.fixture
def bench() -> Iterator[Workbench]:
    bench = Workbench.from_settings(Settings())
    yield bench
    bench.session.close()
