"""``jola runs``."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.cli.main import main
from jola.config import RunConfig
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.jola.cli.commands import Result, assert_refused, train


class TestRuns:
    def test_none_yet(self, jola: Callable[..., Result], home: Path) -> None:
        for command in (["runs"], ["runs", "list"]):
            result = jola(*command)
            assert result.code == 0
            assert f"No runs yet in {home / 'runs'}" in result.out
        assert jola("runs", "list", "--json").json == {"runs": []}

    def test_list_show_and_remove(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        names = ["20260102-150405-a-task-with-a-long-name-3f2a", "20260102-150405-a-task-with-a-long-name-3f2b"]
        for name in names:
            shutil.copytree(run.path, home / "runs" / name)
        listed = jola("runs", "list", "--json").json["runs"]
        assert sorted(summary["id"] for summary in listed) == names
        assert listed[0]["state"] == "finished"
        assert listed[0]["accuracy"]["n"] == 6
        table = jola("runs").out.splitlines()
        # In a pipe, nothing is truncated and each run is one line.
        assert len(table) == 3
        assert sorted(line.split()[0] for line in table[1:]) == names
        assert all("(n = 6, 95 % interval" in line for line in table[1:])
        shown = jola("runs", "show", names[0], "--json").json
        assert shown["config"]["training"]["epochs"] == 1
        assert shown["result"] == run.result()
        assert shown["summary"]["id"] == names[0]
        assert shown["status"]["state"] == "finished"
        assert json.loads(jola("runs", "show", home / "runs" / names[1]).out)["result"] == run.result()
        removed = jola("runs", "remove", names[0])
        assert (removed.code, removed.out) == (0, f"removed {names[0]}\n")
        assert [run.id for run in RunStore().list()] == names[1:]

    def test_ids_that_are_none(self, jola: Callable[..., Result], home: Path) -> None:
        (home / "runs").mkdir(parents=True)
        (home / "keep").mkdir()
        for command in (["show", "nothing"], ["remove", "nothing"], ["remove", "../keep"], ["show", "../keep"]):
            assert_refused(jola("runs", *command), "`jola runs` lists all")
        assert (home / "keep").is_dir()

    def test_a_deleted_run_comes_back(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        assert jola("runs", "restore").out == "No deleted run can be restored.\n"
        removed = jola("runs", "remove", "one")
        assert "restore them within a week with `jola runs restore one`" in removed.err
        assert jola("runs", "list", "--json").json == {"runs": []}
        assert jola("runs", "restore").out.splitlines()[1].split()[0] == "one"
        assert [found["id"] for found in jola("runs", "restore", "--json").json["deleted"]] == ["one"]
        restored = jola("runs", "restore", "one")
        assert (restored.code, restored.out) == (0, "restored one\n")
        assert jola("runs", "show", "one", "--json").json["result"] == run.result()
        assert_refused(jola("runs", "restore", "one"), "There is no deleted run 'one'")
        jola("runs", "remove", "--for-good", "one")
        assert_refused(jola("runs", "restore", "one"), "There is no deleted run 'one'")

    def test_a_label_and_a_note(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        assert jola("runs", "rename", "one", "[red]A label[/red]").out == "one  [red]A label[/red]\n"
        assert jola("runs", "note", "one", "Two\nlines.", "--json").json == {
            "run": "one",
            "label": "[red]A label[/red]",
            "note": "Two\nlines.",
        }
        assert jola("runs").out.splitlines()[1].split()[:3] == ["one", "[red]A", "label[/red]"]
        summary = jola("runs", "list", "--json").json["runs"][0]
        assert (summary["id"], summary["label"], summary["note"]) == ("one", "[red]A label[/red]", "Two\nlines.")
        assert_refused(jola("runs", "rename", "one", "x" * 81), "The label has 81 characters, but the limit is 80")

    def test_a_run_is_given_away_and_taken_in(
        self, jola: Callable[..., Result], run: Run, home: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        exported = jola("runs", "export", "one", "--output", tmp_path, "--json").json
        assert exported == {"run": "one", "file": f"{tmp_path}/one.zip", "bytes": os.path.getsize(tmp_path / "one.zip")}
        assert_refused(jola("runs", "export", "one", "--output", tmp_path), "one.zip already exists")
        imported = jola("runs", "import", tmp_path / "one.zip", "--label", "A gift", "--json").json
        assert imported["summary"]["label"] == "A gift"
        assert imported["summary"]["imported"] is True
        back = Run.open(imported["path"])
        assert (back.result(), back.metrics()) == (run.result(), run.metrics())
        taken = jola("runs", "import", run.adapter_dir)
        assert taken.code == 0
        assert "adapter   " in taken.out
        assert len(RunStore().list()) == 3
        (tmp_path / "broken.zip").write_bytes(b"PK")
        assert_refused(jola("runs", "import", tmp_path / "broken.zip"), "broken.zip is not a zip file")
        assert_refused(jola("runs", "import", tmp_path / "one.zip", "--label", "x" * 99), "The label has 99")
        assert len(RunStore().list()) == 3

    def test_runs_beside_each_other(self, jola: Callable[..., Result], run: Run, place: Path, home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JOLA_HOME", str(home))
            main([str(a) for a in train(place, "--seed", "7", "--batch-size", "6", "--output", home / "runs" / "two")])
        shutil.copytree(run.path, home / "runs" / "one")
        jola("runs", "rename", "two", "The second")
        compared = jola("runs", "compare", "one", "two", "--json").json
        differ = {row["name"]: row["values"] for row in compared["settings"]}
        assert differ == {"seed": [42, 7], "batch_size": [4, 6]}
        figures = {row["name"]: row["values"] for row in compared["figures"]}
        assert figures["steps"] == [3, 2]
        assert figures["accuracy"][0] == (run.result() or {})["test"]
        assert figures["validation_cross_entropy"][0] == min(
            entry["validation_cross_entropy"] for entry in run.metrics() if "validation_cross_entropy" in entry
        )
        assert compared["same_test"] is True
        shown = jola("runs", "compare", "one", "two").out
        assert re.search(r"^ +one +The second *$", shown, re.MULTILINE)
        assert re.search(r"^ *batch_size +4 +6 *$", shown, re.MULTILINE)
        assert "(n = 6, 95 % interval" in shown
        assert_refused(jola("runs", "compare", "one"), "Name two or more runs")

    def test_removing_nothing_is_a_mistake(self, jola: Callable[..., Result]) -> None:
        assert_refused(jola("runs", "remove"), "Name the runs to remove")

    def test_a_run_at_work_is_not_removed(self, jola: Callable[..., Result], home: Path) -> None:
        Run.create(home / "runs" / "busy", RunConfig())
        assert_refused(jola("runs", "remove", "busy"), "The run 'busy' is starting; cancel it before removing it")
        assert (home / "runs" / "busy").is_dir()
