"""The manager of detached processes, with a kind of work for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jola.errors import InputError
from jola.system.files import json_bytes, read_json, replace_file
from jola.system.processes import identity, own_identity
from workbench.service.processes import End, Kind, Processes, Turns, at_work, last_sentence, wait_until

SLEEPS = "import time; time.sleep(600)"


class Study:
    """A folder with a status and a log."""

    def __init__(self, folder: Path) -> None:
        self.id = folder.name
        self.folder = folder
        self.log_path = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)

    def status(self) -> dict[str, Any]:
        return read_json(self.folder / "status.json") or {}

    def write_status(self, **changes: Any) -> None:
        replace_file(self.folder / "status.json", json_bytes({**self.status(), **changes}))


def pids(study: Study) -> set[int]:
    return {study.status()["pid"]} if at_work(study) else set()


def write_end(study: Study, end: End) -> None:
    study.write_status(code=end.code, asked=end.asked, said=last_sentence(study))


def studies(turns: Turns, program: str) -> Processes[Study]:
    return Processes(turns, Kind("study", lambda study: [sys.executable, "-c", program], pids, write_end))


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    found = Study(tmp_path / "studies" / "one")
    yield found
    for pid in pids(found) - {os.getpid()}:
        os.kill(pid, 9)


def launch(processes: Processes[Study], study: Study, **status: Any) -> None:
    with processes.turns.locked():
        processes.launch(study, **status)


def ended(study: Study) -> bool:
    return wait_until(lambda: "code" in study.status(), 300)


def test_the_exit_code_and_the_log_of_a_process_are_written_down(tmp_path: Path, study: Study) -> None:
    launch(studies(Turns(tmp_path), "import sys; sys.exit('error: no such grid')"), study, asked_for="grid")
    assert ended(study)
    status = study.status()
    assert (status["code"], status["asked"], status["said"]) == (1, False, "no such grid")
    assert status["asked_for"] == "grid" and not at_work(study)


def test_another_manager_sees_and_ends_the_work_of_the_first(tmp_path: Path, study: Study) -> None:
    launch(studies(Turns(tmp_path), SLEEPS), study)
    other, again = studies(Turns(tmp_path), SLEEPS), Study(study.folder)
    assert at_work(again) and other.stop(again)
    assert ended(study) and study.status()["code"] == -15 and not at_work(again)
    assert not other.stop(again)


def test_what_this_app_ends_is_told_from_what_ends_otherwise(tmp_path: Path, study: Study) -> None:
    processes = studies(Turns(tmp_path), SLEEPS)
    launch(processes, study)
    processes.stop(study)
    assert ended(study) and study.status()["asked"]


def test_work_outlives_the_app_that_started_it(tmp_path: Path, study: Study) -> None:
    app = f"""
import os, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from tests.workbench.service.test_processes import SLEEPS, Study, Turns, launch, studies
launch(studies(Turns(Path({str(tmp_path)!r})), SLEEPS), Study(Path({str(study.folder)!r})))
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", app], check=False)
    assert at_work(study) and study.status()["pid"] != os.getpid()


def test_a_process_that_cannot_be_started_leaves_nobody_at_work(tmp_path: Path, study: Study) -> None:
    kind = Kind[Study]("study", lambda study: ["/no/such/program"], pids, write_end)
    with pytest.raises(InputError, match="The study process could not be started"):
        launch(Processes(Turns(tmp_path), kind), study)
    assert study.status()["pid"] == os.getpid() and not at_work(study)


def test_a_process_that_is_started_while_it_is_looked_for_is_found(study: Study) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPS]) as process:
        before, after = own_identity(), identity(process.pid)
        read = iter([before, after])
        study.status = lambda: next(read)
        assert at_work(study)
        process.kill()
    study.status = lambda: before
    assert not at_work(study), "the process of this app is not the work"


def test_kinds_of_work_wait_for_each_other(tmp_path: Path) -> None:
    turns, busy = Turns(tmp_path), {"run": "", "study": ""}
    for noun in busy:
        turns.add(noun, lambda asker, noun=noun: busy[noun] and f"{busy[noun]} No {asker} can start.")
    turns.check("study")
    busy["run"] = "A run is training."
    with pytest.raises(InputError, match=r"A run is training\. No study can start\."):
        turns.check("study")
    assert turns.taken("study") and not turns.taken("run")
    with pytest.raises(InputError, match="No run can start"):
        turns.check("run")
