"""Who is at work on a folder."""

import subprocess
import sys
from pathlib import Path

from jola.system.files import json_bytes
from jola.system.processes import at_work, own_identity, workers

BREAKS = "import os, sys; from pathlib import Path; from jola.system.processes import at_work\n"
BREAKS += "with at_work(Path(sys.argv[1])): os._exit(0)"


def test_only_processes_at_work_are_named(tmp_path: Path) -> None:
    assert workers(tmp_path) == []
    with at_work(tmp_path):
        assert workers(tmp_path) == [own_identity()["pid"]]
    assert workers(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_one_that_was_killed_or_left_damaged_files_counts_no_more(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BREAKS, tmp_path], check=True)
    assert len(list((tmp_path / "workers").iterdir())) == 1
    (tmp_path / "workers" / "5.json").write_text("no JSON")
    (tmp_path / "workers" / "6.json").write_bytes(json_bytes({"pid": "one"}))
    (tmp_path / "workers" / "8.json").write_bytes(json_bytes(own_identity() | {"pid_created": "now"}))
    (tmp_path / "workers" / "9.json").write_text("[" * 100_000)
    # Of another process that has the number now.
    (tmp_path / "workers" / "7.json").write_bytes(json_bytes(own_identity() | {"pid_created": 1.0}))
    assert workers(tmp_path) == []
    with at_work(tmp_path):
        assert workers(tmp_path) == [own_identity()["pid"]]
    assert not (tmp_path / "workers").exists()
