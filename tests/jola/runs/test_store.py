"""The folder of all runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.jola.runs.records import as_if_killed, record


class TestRunStore:
    def test_newest_first_and_nothing_else(self, store: RunStore) -> None:
        assert store.list() == []
        for name in ("b", "c", "a"):
            Run.create(store.root / name, RunConfig())
            time.sleep(0.002)
        (store.root / "no run").mkdir()
        (store.root / "file").touch()
        (store.root / "link").symlink_to(store.root / "a")
        assert [run.id for run in store.list()] == ["a", "c", "b"]

    def test_a_thousand_runs_that_were_killed(self, store: RunStore) -> None:
        config = json.dumps({**RunConfig().to_dict(), "created": 1.0})
        for index in range(1000):
            folder = store.root / f"run{index}"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(config)
            (folder / "status.json").write_text(json.dumps({"state": "training", "pid": index + 2, "pid_created": 1.0}))
        rows = [run.summary() for run in store.list()]
        assert len(rows) == 1000
        assert {row["state"] for row in rows} == {"killed"}

    def test_ids_are_unique_for_processes_that_ask_at_once(self, store: RunStore) -> None:
        script = (
            "import sys; from jola.runs.run import RunStore; store = RunStore(sys.argv[1]); "
            "print(*[store.new_id('hf:owner/My Task.v2') for _ in range(50)])"
        )
        command = [sys.executable, "-c", script, str(store.root)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        ids = [id for process in processes for id in process.communicate()[0].split()]
        assert len(set(ids)) == 100
        assert {run.id for run in store.list()} == set(ids)

    @pytest.mark.parametrize(
        ("task", "part"),
        [
            ("sentiment", "-sentiment-"),
            ("/data/my tasks/trec/", "-trec-"),
            ("../x/reviews.jsonl", "-reviews-"),
            ("hf:a/b", "-b-"),
            ("", "-run-"),
            ("日本", "-run-"),
            ("x" * 300, "-" + "x" * 32 + "-"),
        ],
    )
    def test_an_id_tells_the_task_and_is_a_plain_name(self, store: RunStore, task: str, part: str) -> None:
        id = store.new_id(task)
        assert part in id
        assert store.get(id).path == store.root / id

    def test_a_reserved_run_can_be_made_once(self, store: RunStore) -> None:
        id = store.new_id("sentiment")
        assert store.get(id).state == "starting"
        run = Run.create(store.get(id).path, RunConfig())
        assert run.config()["model"]
        with pytest.raises(InputError, match="already contains a run"):
            Run.create(run.path, RunConfig())

    @pytest.mark.parametrize(
        "id",
        ["", ".", "..", "../outside", "a/../../outside", "/etc", "a\\b", "c:x", "a\0b", ".hidden", "x" * 300],
    )
    def test_an_id_does_not_lead_out_of_the_store(self, store: RunStore, id: str) -> None:
        Run.create(store.root / "a", RunConfig())
        Run.create(store.root.parent / "outside", RunConfig())
        with pytest.raises(InputError, match="is not a valid run id"):
            store.get(id)
        with pytest.raises(InputError, match="is not a valid run id"):
            store.remove(id)

    def test_a_link_out_of_the_store_is_not_followed(self, store: RunStore) -> None:
        outside = Run.create(store.root.parent / "outside", RunConfig())
        store.root.mkdir()
        (store.root / "link").symlink_to(outside.path)
        with pytest.raises(InputError, match="is not a valid run id"):
            store.remove("link")
        assert outside.path.is_dir()

    def test_a_second_name_of_a_run_does_not_remove_it(self, store: RunStore) -> None:
        run = Run.create(store.root / "a", RunConfig())
        as_if_killed(run)
        (store.root / "alias").symlink_to(run.path)
        with pytest.raises(InputError, match="is not a valid run id"):
            store.remove("alias")
        assert run.path.is_dir()

    def test_an_unknown_run(self, store: RunStore) -> None:
        with pytest.raises(InputError, match="There is no run 'absent'"):
            store.get("absent")

    def test_a_run_at_work_is_not_removed(self, store: RunStore) -> None:
        run = Run.create(store.root / "a", RunConfig())
        record(run, 1)
        with pytest.raises(InputError, match="is starting; cancel it"):
            store.remove("a")
        assert run.gates().steps.tolist() == [1]
        as_if_killed(run)
        store.remove("a")
        assert store.list() == []

    def test_the_default_folder_moves_with_the_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JOLA_HOME", str(tmp_path))
        assert RunStore().root == tmp_path / "runs"
