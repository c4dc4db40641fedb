"""Programs that replace `jola grid run`, and studies that they run."""

import time
from collections.abc import Callable
from pathlib import Path

from jola.studies.axes import checked_axes, expand_arms
from tests.jola.studies.grids import SETTINGS
from workbench.service.stored_study import StoredStudy
from workbench.service.studies import Studies

# Replaces `jola grid run`: writes a result for each cell that is not done, one after the other, without a model.
# After the first cell, it waits as long as the file HOLD exists.
MAKES = """
import signal, sys, time
from pathlib import Path
from jola.studies.grid import Grid
from tests.jola.studies.grids import result
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
grid = Grid.open(sys.argv[1])
for number, (name, state) in enumerate(grid.states().items()):
    if state not in ("done", "failed"):
        while number and Path("HOLD").exists():
            time.sleep(0.01)
        grid.cell(name).write_result(result(0.5))
"""
REFUSES = "import sys; print('error: There is no task x.', file=sys.stderr); sys.exit(2)"
COUNTS_SIGNALS = """
import pathlib, signal, sys, time
signals, folder = [], pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
(folder / "ready").touch()
while not (folder / "end").exists():
    time.sleep(0.01)
(folder / "count").write_text(str(len(signals)))
"""
SLEEPS = "import time; time.sleep(600)"

Make = Callable[..., Studies]


def makes(hold: Path = Path("none")) -> str:
    return MAKES.replace("HOLD", str(hold))


def begin(
    one: Studies, task: str, arms: tuple[str, ...] = ("jola", "red"), seeds: tuple[int, ...] = (1, 2)
) -> StoredStudy:
    found = expand_arms(arms, SETTINGS)
    return one.start(checked_axes(found, [task], [8], seeds, ["default"]), found, SETTINGS, {})


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
