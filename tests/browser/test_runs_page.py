"""The Runs tab in a real Chromium."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.config import RunConfig, TrainingConfig
from jola.runs.archive import export_archive
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.paths import HOME_VARIABLE
from tests import ROOT
from tests.browser.conftest import PATIENCE, App, OpenPage
from tests.workbench.recorded import MethodRecorder, Recorder
from workbench.service import sample

TAG = "<img src=x onerror=alert(1)>"
ROWS = ".rt tbody tr[data-id]"


@pytest.fixture(scope="module")
def runs_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A page with only the Runs tab; every test refills its store."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, HOME_VARIABLE: str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.browser.runs_page", "--port", "0", "--no-token"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("http://"):
                break
        else:
            pytest.fail("The page did not start:\n" + "".join(lines))
        yield App(lines[-1].strip().rstrip("/"), home)
        process.terminate()


@pytest.fixture
def store(runs_app: App) -> RunStore:
    """The store of the page: the sample run, a run with a hostile label, and a failed run."""
    shutil.rmtree(runs_app.runs, ignore_errors=True)
    store = RunStore(runs_app.runs)
    sample.install(store)
    recorded(store, "one").annotate(label=TAG)
    recorded(store, "two", "failed", seed=7)
    return store


def recorded(store: RunStore, id: str, state: str = "finished", seed: int = 1) -> Run:
    config = RunConfig(training=TrainingConfig(seed=seed))
    return Recorder(store.root / id, steps=10, layers=4, units=5, config=config).until(10).finish(state)


@pytest.fixture
def page(runs_app: App, store: RunStore, open_page: OpenPage) -> Any:
    page = open_page(runs_app)
    listed(page, 3)
    return page


def listed(page: Any, count: int) -> None:
    page.wait_for_selector(f'.rt[data-state="ready"][data-runs="{count}"]')


def ids(page: Any) -> list[str]:
    return page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.dataset.id)")


def chosen(page: Any, id: str) -> None:
    page.wait_for_selector(f'.rt[data-chosen="{id}"] .rt-chosen:not([hidden])')


def stored(page: Any, done: Callable[[], bool]) -> None:
    """Wait until ``done()`` is true in Python."""
    end = time.monotonic() + PATIENCE / 1000
    while not done():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def said(page: Any, words: str) -> None:
    page.wait_for_function(
        "(words) => { const box = document.querySelector('.rt-toast'); "
        "return !box.hidden && box.textContent.includes(words); }",
        arg=words,
    )


def test_every_run_is_a_row_and_a_label_is_text(page: Any) -> None:
    assert ids(page) == ["two", "one", "sample"]
    row = page.inner_text(f"{ROWS}[data-id=sample]")
    assert "88.0 %" in row and "84.9–90.6, n 500" in row and "134 / 3" in row and "of 270" in row
    assert TAG in page.inner_text(f"{ROWS}[data-id=one]")
    assert page.locator(".rt img").count() == 0
    page.click(f"{ROWS}[data-id=one]")
    chosen(page, "one")
    assert page.inner_text(".rt-title") == TAG
    assert page.input_value(".rt-label") == TAG
    page.click(f"{ROWS}[data-id=one] input")
    page.click(f"{ROWS}[data-id=sample] input")
    page.wait_for_selector("#runs-compared .jw-compared")
    assert page.locator(".rt img, #runs-compared img").count() == 0
    assert TAG in page.inner_text("#runs-compared")


def test_runs_of_one_method_and_their_order(page: Any, store: RunStore) -> None:
    assert page.is_hidden(".rt-method")
    for method in ("lora", "red"):
        MethodRecorder(store.root / method, RunConfig(method=method), steps=4).until(4).finish()
    listed(page, 5)
    expect(page.locator(".rt-method option")).to_have_text(["All methods", "JoLA", "LoRA", "RED"])
    page.select_option(".rt-method", "LoRA")
    assert ids(page) == ["lora"]
    assert page.inner_text(".rt-count") == "1 of 5 runs"
    page.locator(".rt-search").press_sequentially("sample")
    page.wait_for_selector(".rt-none:not([hidden])")
    page.fill(".rt-search", "")
    page.select_option(".rt-method", "")
    page.get_by_role("columnheader", name="Method").get_by_role("button").click()
    assert ids(page)[-2:] == ["lora", "red"]
    page.get_by_role("columnheader", name="Method").get_by_role("button").click()
    assert ids(page)[:2] == ["red", "lora"]


def test_search_and_sort(page: Any) -> None:
    page.locator(".rt-search").press_sequentially("fail")
    page.wait_for_function("document.querySelectorAll('.rt tbody tr[data-id]').length === 1")
    assert ids(page) == ["two"]
    assert page.inner_text(".rt-count") == "1 of 3 runs"
    page.locator(".rt-search").press_sequentially("xyz")
    page.wait_for_selector(".rt-none:not([hidden])")
    page.fill(".rt-search", "")
    page.wait_for_function("document.querySelectorAll('.rt tbody tr[data-id]').length === 3")
    for heading, expected in (("Test score", "sample"), ("Size", "sample"), ("Name", "one"), ("Begun", "two")):
        button = page.get_by_role("columnheader", name=heading).get_by_role("button")
        button.click()
        assert ids(page)[0] == expected, heading
        before = ids(page)
        button.click()
        assert ids(page)[-1] == expected or before != ids(page), heading
    assert page.get_by_role("columnheader", name="Begun").get_attribute("aria-sort") == "ascending"


def test_a_run_is_named_by_keyboard_alone(page: Any, store: RunStore) -> None:
    page.focus(".rt-search")
    page.keyboard.press("ArrowDown")
    chosen(page, "two")
    page.keyboard.press("ArrowDown")
    chosen(page, "one")
    page.keyboard.press("End")
    chosen(page, "sample")
    page.keyboard.press("Home")
    chosen(page, "two")
    assert page.get_attribute(".rt-scroll", "aria-activedescendant") == page.get_attribute(f"{ROWS}[data-id=two]", "id")
    page.keyboard.press("F2")
    page.keyboard.type("Second try")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.rt tbody tr[data-id=two]').textContent.includes('Second try')")
    stored(page, lambda: store.get("two").notes().label == "Second try")
    assert page.evaluate("document.activeElement.className") == "rt-scroll"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#opened :is(input, textarea)').value === 'train two'")


def test_a_note_that_was_typed_is_kept_when_another_run_is_chosen(page: Any, store: RunStore) -> None:
    page.click(f"{ROWS}[data-id=two]")
    chosen(page, "two")
    page.fill(".rt-note", "Failed at once.\n</textarea><script>alert(1)</script>")
    page.click(f"{ROWS}[data-id=one]")
    chosen(page, "one")
    stored(page, lambda: store.get("two").notes().note.startswith("Failed at once.\n</textarea>"))
    assert store.get("one").notes().note == ""
    page.click(f"{ROWS}[data-id=two]")
    assert page.input_value(".rt-note").startswith("Failed at once.")


def test_delete_and_undo(page: Any, store: RunStore) -> None:
    page.click(f"{ROWS}[data-id=one]")
    chosen(page, "one")
    page.click(".rt-remove")
    said(page, f"Deleted {TAG}.")
    listed(page, 2)
    assert not (store.root / "one").exists()
    assert page.get_attribute(".rt", "data-chosen") == "sample"
    page.click(".rt-undo")
    said(page, "Restored")
    listed(page, 3)
    chosen(page, "one")
    page.focus(".rt-scroll")
    page.keyboard.press("Delete")
    said(page, "Deleted")
    listed(page, 2)
    page.click(".rt-dismiss")
    page.click(".rt-deleted summary")
    page.click(".rt-deleted button")
    listed(page, 3)
    assert (store.root / "one" / "config.json").is_file()


def test_a_run_at_work_cannot_be_deleted_and_its_row_follows_it(page: Any, store: RunStore) -> None:
    recorder = Recorder(store.root / "busy", steps=10, layers=4, units=5).until(2)
    listed(page, 4)
    expect(page.locator(f"{ROWS}[data-id=busy]")).to_contain_text("Training 20 %", use_inner_text=True)
    page.click(f"{ROWS}[data-id=busy]")
    chosen(page, "busy")
    assert page.is_disabled(".rt-remove") and page.is_disabled(".rt-export") and page.is_disabled(".rt-playground")
    recorder.until(8, 3)
    page.wait_for_function("document.querySelector('.rt tbody tr[data-id=busy]').textContent.includes('80 %')")
    recorder.until(10, 9).finish()
    page.wait_for_selector(".rt-remove:enabled")
    assert "86.0 %" in page.inner_text(f"{ROWS}[data-id=busy]")


def test_two_runs_are_compared_and_let_go(page: Any) -> None:
    for id in ("sample", "one"):
        page.click(f"{ROWS}[data-id={id}] input")
    page.wait_for_selector("#runs-gates .js-plotly-plot .main-svg", state="attached")
    page.wait_for_selector("#runs-validation .js-plotly-plot", state="attached")
    assert page.locator("#runs-validation .js-plotly-plot").count() == 1
    assert "Settings that differ" in page.inner_text("#runs-compared").replace(
        "SETTINGS THAT DIFFER", "Settings that differ"
    )
    height = page.locator(".rt").bounding_box()["height"]
    assert height < 450
    page.click(".rt-clear")
    page.wait_for_selector("#runs-compared", state="detached")
    assert page.locator(".rt").bounding_box()["height"] > 800
    assert page.locator(f"{ROWS} input:checked").count() == 0


def test_export_and_import(page: Any, store: RunStore, tmp_path: Path) -> None:
    page.click(f"{ROWS}[data-id=sample]")
    chosen(page, "sample")
    page.click(".rt-export")
    page.wait_for_function("document.activeElement?.closest('#export-form')")  # it does not scroll after that
    with page.expect_download() as download:
        page.click("#export-go")
    file = tmp_path / "gift.zip"
    download.value.save_as(file)
    assert download.value.suggested_filename == "sample.zip"
    assert file.read_bytes() == export_archive(store.get("sample"), tmp_path).read_bytes()
    with page.expect_file_chooser() as chooser:
        page.click("#runs-import")
    chooser.value.set_files(file)
    said(page, "Imported Sample.")
    listed(page, 4)
    page.wait_for_selector('.rt:not([data-chosen=""], [data-chosen="sample"])')
    assert page.inner_text(".rt-state") == "Finished, imported"
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    with page.expect_file_chooser() as chooser:
        page.click("#runs-import")
    chooser.value.set_files(tmp_path / "broken.zip")
    said(page, "broken.zip is not a zip file, or a damaged one; nothing was imported.")
    assert len(store.list()) == 4


def test_a_thousand_runs_stay_smooth(runs_app: App, store: RunStore, open_page: OpenPage) -> None:
    one = store.get("one")
    for index in range(1000):
        folder = store.root / f"many-{index:04}"
        (folder / "gates").mkdir(parents=True)
        for name in ("config.json", "status.json", "result.json", "gates/heads.json"):
            (folder / name).write_bytes((one.path / name).read_bytes())
    page = open_page(runs_app)
    listed(page, 1003)
    assert page.locator(ROWS).count() < 80
    # Draws the table at 60 positions from the first run to the last, alternating with the same rows as plain HTML.
    plain, drawn = page.evaluate(
        """() => {
          const { draw, scroller } = document.querySelector(".rt").parentElement.runTable;
          const table = scroller.querySelector("table");
          const copy = document.body.appendChild(document.createElement("div"));
          const spent = (work) => { const begun = performance.now(); work(); return performance.now() - begun; };
          const times = Array.from({ length: 60 }, (_, step) => {
            scroller.scrollTop = (scroller.scrollHeight * (step + 1)) / 60;
            const drawing = spent(() => { draw(); table.offsetHeight; });
            return [spent(() => { copy.innerHTML = table.outerHTML; copy.offsetHeight; }), drawing];
          });
          copy.remove();
          return [0, 1].map((which) => times.map((pair) => pair[which]).sort((a, b) => a - b)[30]);
        }"""
    )
    assert drawn < 3 * plain
    page.wait_for_selector(f"{ROWS}[aria-rowindex='1004']")
    page.focus(".rt-scroll")
    page.keyboard.press("Home")
    page.wait_for_selector(f"{ROWS}[aria-rowindex='2'][aria-selected=true]")
    page.locator(".rt-search").press_sequentially("many-0999")
    page.wait_for_function("document.querySelectorAll('.rt tbody tr[data-id]').length === 1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_nothing_is_cut_off(
    runs_app: App, store: RunStore, open_page: OpenPage, scheme: str, size: tuple[int, int]
) -> None:
    page = open_page(runs_app, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    listed(page, 3)
    page.click(f"{ROWS}[data-id=sample]")
    chosen(page, "sample")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.locator("#runs-import").bounding_box()["x"] + 20 < size[0]
    names = page.eval_on_selector_all(f"{ROWS} td.rt-col-name", "cells => cells.map(cell => cell.clientWidth)")
    assert min(names) >= 80
    overlap = page.evaluate(
        """() => { const box = (what) => document.querySelector(what).getBoundingClientRect();
          const left = box("#runs-import").left;
          return left < box(".rt-count").right || left < box(".rt-search").right; }"""
    )
    assert not overlap
