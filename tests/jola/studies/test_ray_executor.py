"""Grids on Ray. Tests do not need Ray; if it is installed, they also run on a real local instance."""

import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from jola.errors import InputError
from jola.studies.executors import run_grid
from jola.studies.ray_executor import RayExecutor
from tests.jola.studies.grids import make_task, plan
from tests.jola.studies.test_grid import Log

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'jola-workbench[ray]'")


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that is bound but accepts no connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_an_address_that_does_not_answer_is_one_sentence(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(InputError, match=f"No Ray cluster answers at 127.0.0.1:{free_port}"):
        RayExecutor(tmp_path, f"127.0.0.1:{free_port}")
    for address in ("nonsense", "host:", ":6379", "host:99999"):
        with pytest.raises(InputError, match="write it as host:port"):
            RayExecutor(tmp_path, address)


def test_without_ray_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'jola-workbench\[ray\]'"):
        RayExecutor(tmp_path)


@needs_ray
def test_cells_are_made_by_a_local_ray(tmp_path: Path, tiny_folder: Path) -> None:
    lost = make_task(tmp_path / "lost", 100)
    grid = plan(tmp_path / "g", [make_task(tmp_path / "films"), lost], ["red"], [1, 2], models=(str(tiny_folder),))
    for file in Path(lost).iterdir():
        file.unlink()
    log = Log()
    with RayExecutor(grid.folder, workers=2) as executor:
        assert executor.slots == 2
        assert run_grid(grid, list(grid.planned), executor, log)
    assert sorted(line.outcome for line in log.lines) == ["done", "done", "failed", "failed"]
    assert grid.state().counts["done"] == 2
    with pytest.raises(InputError, match="does not see"):
        RayExecutor(tmp_path / "elsewhere")
