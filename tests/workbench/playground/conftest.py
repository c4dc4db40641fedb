"""A run to load in the Playground."""

from pathlib import Path

import pytest

from jola.runs.run import Run
from tests.workbench.edited import edited_run
from workbench.service.bench import Workbench


@pytest.fixture
def run(bench: Workbench, tiny_folder: Path) -> Run:
    return edited_run(bench.store.root / "one", tiny_folder)
