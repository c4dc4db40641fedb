"""Damaged files of a run: its row says what is wrong, and all other runs are unaffected."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jola.errors import InputError
from jola.runs.compare import compare_runs
from jola.runs.store import RunStore
from tests.workbench.recorded import Recorder
from workbench.runs.run_table import Listing
from workbench.runs.tab import comparison_tables
from workbench.service.follow import Follower
from workbench.service.tables import metrics_csv

ACCURACY = {"accuracy": 0.5, "n": 20, "low": 0.3, "high": 0.7}
RESULT = {
    "test": ACCURACY,
    "test_options": ACCURACY,
    "closed": {"offset": 0.25, "scale": None},
    "seconds": 12.5,
    "steps": 12,
    "kept_step": 6,
    "peak_memory": 1000,
}
OBJECTS = ("config.json", "status.json", "result.json", "notes.json", "gates/heads.json")
FILES = (*OBJECTS, "metrics.jsonl", "gates/heads.f32")
BIG = 2**64


def record(root: Path) -> Path:
    """Fill a store with the finished run ``odd`` and the paused run ``other``."""
    run = Recorder(root / "odd", steps=12, layers=3, units=2).until(12).finish()
    run.write_result(RESULT)
    run.annotate(label="a name", note="a note")
    run.write_status(pid=None, pid_created=None)
    other = Recorder(root / "other", steps=12, layers=3, units=2).until(5).run
    other.write_status(pid=None, pid_created=None, state="paused")
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store filled by `record`."""
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> RunStore:
    return copied(recorded, tmp_path / "runs")


def copied(recorded: Path, place: Path) -> RunStore:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(recorded, place)
    return RunStore(place)


def changed(file: Path, place: tuple[Any, ...], value: Any) -> None:
    """Set a value in a JSON file, at a path of names and indices."""
    content = json.loads(file.read_text("utf-8"))
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    file.write_text(json.dumps(content), "utf-8")


def rows_of(store: RunStore) -> dict[str, dict[str, Any]]:
    """Return the rows of the page as a browser parses them."""
    news = json.loads(orjson.dumps(Listing(store).news("")))
    return {row["id"]: row for row in news["runs"]}


def assert_one_row_says_so(store: RunStore, words: str) -> None:
    rows = rows_of(store)
    assert set(rows) == {"odd", "other"}
    assert words in rows["odd"]["problem"]
    assert rows["odd"]["problem"].endswith(".") and str(store.root) not in rows["odd"]["problem"]
    assert rows["other"]["problem"] == ""
    follower = Follower(store.get("odd"))
    assert words in json.loads(orjson.dumps(follower.snapshot()))["message"]
    os.utime(store.root / "odd", (1e9, 1e9))  # a recent folder without a status would count as starting
    store.remove("odd")
    assert set(rows_of(store)) == {"other"}


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        ("result.json", ("found_later",), BIG, "result.json is not valid: found_later is a whole number"),
        ("result.json", ("seconds",), BIG, "seconds is a whole number of 2**53 or more"),
        ("result.json", ("test",), 0.5, "test is 0.5; it should be an object"),
        ("result.json", ("test", "accuracy"), "x", "test.accuracy is 'x'; it should be a valid number"),
        ("result.json", ("test", "accuracy"), 1.5, "test.accuracy is 1.5; it should be less than or equal to 1"),
        ("result.json", ("closed", "scale"), True, "closed.scale is True"),
        ("config.json", ("created",), 1e15, "config.json is not valid: created is 1000000000000000.0"),
        ("config.json", ("task", "n_train"), BIG, "task.n_train is a whole number"),
        ("config.json", ("training",), True, "training is True; it should be an object"),
        ("config.json", ("model", "model"), "\ud800", "model.model contains characters that are not valid Unicode"),
        ("status.json", ("step",), BIG, "status.json is not valid: step is a whole number"),
        ("status.json", ("state",), "dancing", "state is 'dancing'"),
        ("notes.json", ("label",), ["a"], "notes.json is not valid: label is ['a']"),
        ("gates/heads.json", ("layers",), True, "gates/heads.json is not valid: layers is True"),
        ("gates/heads.json", ("units",), 10**6, "more units than any model has"),
        ("gates/heads.json", ("fields", 5), -1, "fields.5 is -1"),
        (
            "gates/heads.json",
            ("fields", 0),
            "offset_fate",
            "has the field scale_gate without the other fields of gates",
        ),
        ("gates/heads.json", ("fields", 2), "offsetopen", "without the other fields of gates"),
        ("gates/heads.json", ("fields",), ["offset"], "no field is a norm"),
    ],
)
def test_an_odd_value_is_said_in_the_row_of_its_run(
    store: RunStore, file: str, place: tuple[Any, ...], value: Any, words: str
) -> None:
    changed(store.root / "odd" / file, place, value)
    assert_one_row_says_so(store, words)


@pytest.mark.parametrize("file", FILES)
def test_a_folder_in_place_of_a_file_is_said_in_the_row_of_its_run(store: RunStore, file: str) -> None:
    path = store.root / "odd" / file
    path.unlink()
    path.mkdir()
    assert_one_row_says_so(store, f"{file} must be a file, but is a folder")


@pytest.mark.parametrize(
    ("content", "words"), [(b'{"test": ', "is not valid JSON"), (b"[1]", "does not contain a JSON object")]
)
def test_what_is_no_object_is_said_in_the_row_of_its_run(store: RunStore, content: bytes, words: str) -> None:
    (store.root / "odd" / "result.json").write_bytes(content)
    assert_one_row_says_so(store, f"result.json {words}")


def test_what_is_valid_beside_an_odd_value_is_still_shown(store: RunStore) -> None:
    changed(store.root / "odd" / "result.json", ("seconds",), "soon")
    row = rows_of(store)["odd"]
    assert row["accuracy"] == ACCURACY and row["closed"] == RESULT["closed"]
    assert row["label"] == "a name" and row["state"] == "finished"
    changed(store.root / "odd" / "config.json", ("evil",), BIG)
    with pytest.raises(InputError, match="evil is a whole number"):
        store.get("odd").config()


def test_odd_lines_of_the_metrics_are_left_out(store: RunStore) -> None:
    run = store.get("odd")
    whole = run.metrics()
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        for line in ('{"step": 1e400}', '{"step": true}', '{"step": 1, "loss": "x"}', f'{{"step": {BIG}}}', "[" * 9999):
            file.write(f"{line}\n")
    assert run.metrics() == whole


def test_what_later_versions_add_is_kept(store: RunStore) -> None:
    changed(store.root / "odd" / "result.json", ("costs",), [{"kind": "energy", "value": 0.5}])
    changed(store.root / "odd" / "config.json", ("method",), "lora")
    run = store.get("odd")
    assert run.problem() == ""
    assert (run.result() or {})["costs"] == [{"kind": "energy", "value": 0.5}]
    assert run.config()["method"] == "lora"


def test_a_history_without_gates_is_no_problem(store: RunStore) -> None:
    names = [f"part{number}_norm" for number in range(6)]
    changed(store.root / "odd" / "gates" / "heads.json", ("fields",), names)
    row = rows_of(store)["odd"]
    assert row["problem"] == "" and row["open"] is None and row["accuracy"] == ACCURACY
    seen = Follower(store.get("odd")).snapshot()
    assert seen["frame"]["has_gates"] is False and seen["frame"]["channels"] == tuple(f"part{n}" for n in range(6))
    assert ("Offset gates closed", "25.0 %") in seen["result"]


@pytest.mark.parametrize("step", [1e30, float("inf"), float("nan"), -1.0])
def test_a_record_whose_step_is_no_count_is_not_shown(store: RunStore, step: float) -> None:
    path = store.root / "odd" / "gates" / "heads.f32"
    records = np.fromfile(path, "<f4").reshape(-1, 1 + 6 * 3 * 2)
    records[-1, 0] = step
    records.tofile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, ask in questions(store).items():
            assert orjson.dumps(ask()), name
    assert store.get("odd").last_gates("heads") is None
    assert store.get("odd").gates("heads").steps.tolist()[-1] == -1


def test_a_note_cannot_replace_a_folder(store: RunStore) -> None:
    path = store.root / "odd" / "notes.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="because it is a folder"):
        store.get("odd").annotate(label="new")


# Any value replaced by any other


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*at, name)
        yield from places(inner, (*at, name))


ODD = st.one_of(
    st.sampled_from([BIG, -BIG, 10**400, 1e15, 1e308, -1, 0.5, True, None, "", "\ud800", float("nan"), float("inf")]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.recursive(st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=2), max_leaves=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def questions(store: RunStore) -> dict[str, Callable[[], Any]]:
    """Return all queries of the page about runs, with no run or with ``odd`` chosen."""
    run, follower = store.get("odd"), Follower(store.get("odd"))
    return {
        "list": lambda: [run.id for run in store.list()],
        "summaries": store.summaries,
        "rows": lambda: Listing(store).news(""),
        "token": follower.token,
        "run view": follower.snapshot,
        "gates": lambda: [(follower.course(site), follower.frame_at(site, 3)) for site in run.sites()],
        "comparison": lambda: comparison_tables(compare_runs([run, store.get("other")]), ["odd", "other"]),
        "table": lambda: metrics_csv(run),
        "endpoint": lambda: [run.result(), run.metrics(), run.status()],
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_no_value_empties_the_page(recorded: Path, tmp_path: Path, data: st.DataObject) -> None:
    store = copied(recorded, tmp_path / "runs")
    file = data.draw(st.sampled_from([*OBJECTS, "metrics.jsonl"]))
    path = store.root / "odd" / file
    lines = path.read_text("utf-8").splitlines() if file == "metrics.jsonl" else [path.read_text("utf-8")]
    number = data.draw(st.integers(0, len(lines) - 1))
    content = json.loads(lines[number])
    path.write_text(lines[number], "utf-8")
    changed(path, data.draw(st.sampled_from(list(places(content)))), data.draw(ODD))
    lines[number] = path.read_text("utf-8")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    for name, ask in questions(store).items():
        assert orjson.dumps(ask()), name
    assert set(rows_of(store)) == {"odd", "other"}
    os.utime(store.root / "odd", (1e9, 1e9))
    if not store.get("odd").alive:  # the value may be the id of a running process
        store.remove("odd")
