"""Damaged runs, hostile archives and mutated adapters: each gives one sentence and leaves everything else unchanged."""

import io
import json
import os
import shutil
import stat
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME
from jola.errors import InputError
from jola.runs.archive import export_archive, import_archive
from jola.runs.store import RunStore
from tests.jola.studies.grids import plan, result
from tests.soak.attacks import JSON, NAMES, attack, damaged
from tests.workbench.edited import edited_run
from tests.workbench.recorded import Recorder
from tests.workbench.runs.test_odd_files import (
    FILES,
    OBJECTS,
    changed,
    copied,
    places,
    questions,
    record,
    rows_of,
)
from workbench.service.follow import Follower
from workbench.service.processes import Turns
from workbench.service.stored_study import StoredStudy
from workbench.service.studies import Studies
from workbench.studies.study_view import StudyViews


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished and a paused run."""
    return record(tmp_path_factory.mktemp("recorded"))


def assert_nothing_is_lost(store: RunStore) -> None:
    for name, ask in questions(store).items():
        assert orjson.dumps(ask()), name
    rows = rows_of(store)
    assert set(rows) == {"odd", "other"} and rows["other"]["problem"] == ""
    os.utime(store.root / "odd", (1e9, 1e9))
    store.remove("odd")
    assert set(rows_of(store)) == {"other"}


def test_values_of_other_types(recorded: Path, tmp_path: Path, examples: int) -> None:
    def swap(data: Any) -> None:
        store = copied(recorded, tmp_path / "runs")
        path = store.root / "odd" / data.draw(st.sampled_from(OBJECTS))
        changed(path, data.draw(st.sampled_from(list(places(json.loads(path.read_text("utf-8")))))), data.draw(JSON))
        assert_nothing_is_lost(store)

    attack(examples, swap)


def test_damaged_files(recorded: Path, tmp_path: Path, examples: int) -> None:
    def damage(data: Any) -> None:
        store = copied(recorded, tmp_path / "runs")
        path = store.root / "odd" / data.draw(st.sampled_from(FILES))
        how = data.draw(st.sampled_from(["bytes", "bytes", "bytes", "folder", "gone", "link"]))
        content = path.read_bytes()
        path.unlink()
        if how == "bytes":
            path.write_bytes(damaged(data, content))
        elif how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(data.draw(st.sampled_from([str(path), "/dev/null", "/etc", "nowhere"])))
        assert_nothing_is_lost(store)

    attack(examples, damage)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid of four cells: one with a run, one with only a result, one that failed, one that is open."""
    grid = plan(tmp_path_factory.mktemp("foreign") / "grid", ["siqa"], ["jola", "lora"], [1, 2])
    run, done, failed, _ = (grid.cell(name) for name in grid.planned)
    for cell in (run, done):
        cell.write_result(result(0.5))
    failed.write_failure("It broke.")
    Recorder(run.run.path, steps=4, layers=3, units=2).until(4).finish()
    grid.claim_test_examples("siqa", "a fingerprint", 100)
    return grid.folder


def test_foreign_grids(foreign: Path, tmp_path: Path, examples: int) -> None:
    """A grid with any value in any file is opened or refused with one sentence, and always listed."""
    files = [path.relative_to(foreign) for path in sorted(foreign.rglob("*.json"))]
    assert len(files) > 6
    folder = tmp_path / "grid"

    def swap(data: Any) -> None:
        for place in (folder, tmp_path / "studies"):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(foreign, folder)
        studies = Studies(tmp_path / "studies", Turns(tmp_path / "runs"))
        good = plan(studies.root / "good", ["siqa"], ["jola"], [1])
        opened = studies.open(str(folder)).id
        name = data.draw(st.sampled_from([Path("grid.json"), *files]))
        path = folder / name
        if data.draw(st.integers(0, 3)):
            changed(
                path, data.draw(st.sampled_from(list(places(json.loads(path.read_text("utf-8")))))), data.draw(JSON)
            )
        else:
            path.write_bytes(damaged(data, path.read_bytes()))
        try:
            found: StoredStudy | None = studies.open(str(folder))
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            found = None
        views = StudyViews(studies)
        view = json.loads(views.snapshot(opened)[1])
        assert {row["id"] for row in view["list"]} == {"good", opened}
        if found is None:
            assert view["chosen"]["state"] == "damaged"
        else:
            grid = found.grid()
            for cell in grid.planned:
                assert grid.config(cell).validate()
                assert json.loads(views.snapshot(opened, cell)[1])["cell"]
            assert orjson.dumps([asdict(row) for row in grid.rows()]) and grid.state().total == len(grid.planned)
            for run in filter(None, map(found.run_of, grid.planned)):
                assert orjson.dumps([run.summary(), Follower(run).snapshot()])
        studies.remove(opened)
        assert [one.id for one in studies.list()] == ["good"] and good.folder.is_dir() and folder.is_dir()

    attack(examples, swap)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an exported run."""
    from tests.tiny import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("exported")
    make_model("llama").save_pretrained(folder / "tiny-llama")
    make_tokenizer().save_pretrained(folder / "tiny-llama")
    run = edited_run(folder / "runs" / "one", folder / "tiny-llama")
    with zipfile.ZipFile(export_archive(run, folder / "gift.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Store:
    """A store, and checks that imports write nothing next to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = RunStore(folder / "runs")
        self.file = folder / "gift.zip"
        (folder / "runs").mkdir(parents=True)

    def take(self, packed: bytes) -> bool:
        """Import a zip file, which gives a run, or one sentence and no files. Return whether it was imported."""
        self.file.write_bytes(packed)
        try:
            run = import_archive(self.file, self.store, name="gift.zip")
        except InputError as error:
            words = str(error)
            assert "\n" not in words and str(self.folder) not in words and len(words) < 2000, words
            taken = False
        else:
            assert orjson.dumps(run.summary()) and run.state in ("finished", "cancelled")
            self.store.remove(run.id)
            self.store.trash.purge()
            taken = True
        assert [path.name for path in self.folder.iterdir() if path.name not in ("runs", "gift.zip")] == []
        assert [path.name for path in (self.folder / "runs").iterdir() if not path.name.startswith(".")] == []
        return taken


def packed(files: list[tuple[str, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in files:
            info = zipfile.ZipInfo(name or "empty")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives(exported: dict[str, bytes], tmp_path: Path, examples: int) -> None:
    here = Store(tmp_path / "store")
    whole = [(name, content, stat.S_IFREG | 0o644) for name, content in exported.items()]
    assert here.take(packed(whole))

    def hostile(data: Any) -> None:
        modes = st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFDIR, 0, 0o104777])
        contents = st.binary(max_size=60) | st.just(b"\0" * 2**21) | st.sampled_from(list(exported.values()))
        names = st.builds(lambda name: name.encode("utf-8", "replace").decode()[:200], NAMES)
        more = data.draw(st.lists(st.tuples(names, contents, modes), min_size=1, max_size=4))
        kept = data.draw(st.lists(st.sampled_from(whole), max_size=len(whole)) | st.just(whole))
        content = packed([*kept, *more])
        here.take(damaged(data, content) if data.draw(st.booleans()) else content)

    attack(examples, hostile)


def test_mutated_adapters(exported: dict[str, bytes], tmp_path: Path, examples: int) -> None:
    here = Store(tmp_path / "store")
    files = {name.removeprefix("adapter/"): content for name, content in exported.items() if "adapter/" in name}
    mode = stat.S_IFREG | 0o644
    assert here.take(packed([(name, content, mode) for name, content in files.items()]))
    config = json.loads(files[CONFIG_NAME])

    def mutate(data: Any) -> None:
        changed_files = dict(files)
        if data.draw(st.booleans()):
            path = tmp_path / "config.json"
            path.write_bytes(files[CONFIG_NAME])
            changed(path, data.draw(st.sampled_from(list(places(config)))), data.draw(JSON))
            changed_files[CONFIG_NAME] = path.read_bytes()
        else:
            name = data.draw(st.sampled_from([CONFIG_NAME, WEIGHTS_NAME]))
            changed_files[name] = damaged(data, files[name])
        here.take(packed([(name, content, mode) for name, content in changed_files.items()]))

    attack(examples, mutate)
