"""Deleting and restoring runs, and automatic removal from the trash."""

import os
import time
from pathlib import Path

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.runs.trash import KEEP_SECONDS, TRASH_NAME


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def finished(store: RunStore, id: str, size: int = 0) -> Run:
    run = Run.create(store.root / id, RunConfig())
    (run.path / "filling").write_bytes(b"x" * size)
    run.annotate(label=f"The run {id}")
    run.write_status(state="finished")
    return run


def test_a_deleted_run_comes_back_as_it_was(store: RunStore) -> None:
    run = finished(store, "a")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    removed = store.remove("a")
    assert store.list() == [] and store.summaries() == []
    assert (removed.id, removed.path.is_dir()) == ("a", True)
    assert [found.id for found in store.trash.runs()] == ["a"]
    with pytest.raises(InputError, match="There is no run 'a'"):
        store.get("a")
    restored = store.restore("a")
    assert {path.name: path.read_bytes() for path in restored.path.iterdir()} == before
    assert [run.id for run in store.list()] == ["a"]
    assert store.trash.runs() == []


def test_the_last_deleted_run_of_a_name_comes_back_first(store: RunStore) -> None:
    for note in ("first", "second"):
        finished(store, "a").annotate(note=note)
        store.remove("a")
    assert store.restore("a").notes().note == "second"
    with pytest.raises(InputError, match="Another run 'a' exists"):
        store.restore("a")
    store.remove("a")
    assert len(store.trash.runs()) == 2


@pytest.mark.parametrize("id", ["absent", "", "..", "../outside", "a/../b"])
def test_only_what_is_in_the_trash_comes_back(store: RunStore, id: str) -> None:
    finished(store, "a")
    store.remove("a")
    with pytest.raises(InputError, match="There is no deleted run"):
        store.restore(id)


def test_links_in_the_trash_are_no_runs(store: RunStore, tmp_path: Path) -> None:
    outside = Run.create(tmp_path / "outside", RunConfig())
    (store.root / TRASH_NAME).mkdir(parents=True)
    (store.root / TRASH_NAME / "1-link").symlink_to(outside.path)
    (store.root / TRASH_NAME / "no-number").mkdir()
    assert store.trash.runs() == []
    store.trash.purge(older_than=0)
    assert outside.path.is_dir()


def test_old_runs_leave_the_trash_when_another_is_deleted(store: RunStore) -> None:
    for id in ("old", "new"):
        finished(store, id)
    old = store.remove("old")
    long_ago = int(time.time() - KEEP_SECONDS - 5)
    old.path.rename(old.path.with_name(f"{long_ago}-old"))
    store.remove("new")
    assert [run.id for run in store.trash.runs()] == ["new"]
    assert sorted(path.name for path in store.root.iterdir()) == [TRASH_NAME]


def test_a_full_trash_loses_the_oldest_and_keeps_the_last(store: RunStore) -> None:
    for position, id in enumerate(("a", "b", "c")):
        finished(store, id, size=10_000)
        path = store.remove(id).path
        path.rename(path.with_name(f"{int(time.time()) - 60 + position}-{id}"))
    gone = store.trash.purge(beyond=25_000)
    assert [run.id for run in gone] == ["a"]
    assert [run.id for run in store.trash.runs()] == ["c", "b"]
    store.trash.purge(beyond=1)
    assert [run.id for run in store.trash.runs()] == ["c"]


def test_what_a_killed_import_left_is_taken_away_after_a_day(store: RunStore) -> None:
    for name in (".importing-1a2b", ".removing-3c4d", ".importing-new"):
        (store.root / name / "adapter").mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    for name in (".importing-1a2b", ".removing-3c4d"):
        os.utime(store.root / name, (yesterday, yesterday))
    store.trash.purge()
    assert [path.name for path in store.root.iterdir()] == [".importing-new"]


def test_an_empty_store_has_an_empty_trash(store: RunStore) -> None:
    assert store.trash.runs() == []
    assert store.trash.purge() == []
    assert not store.root.exists()
