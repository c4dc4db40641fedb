"""The Studies tab in a real Chromium: with made-up studies, and with a tiny one that is started by clicks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.studies.grid import Grid
from tests.browser.conftest import App, OpenPage, opened, ready
from tests.jola.studies.grids import fill, make_task, plan
from tests.workbench.started import started

TRAINING = 600_000
"""Milliseconds within which some tiny training runs should end while other tests run."""
HOSTILE = "<img src=x onerror=alert(1)>"
SCORES = {"jola": 0.8, "lora": 0.7, "lora:learning_rate=1e-3": 0.6, "zero-shot": 0.3}


@pytest.fixture(scope="module")
def stored(app: App) -> Grid:
    """A study of four arms with one failed cell and one cell that has not been run."""
    grid = plan(app.home / "studies" / "stored", ["siqa", "boolq"], list(SCORES), [1, 2], sizes=(100, 1000))
    failed, missing = list(grid.planned)[4:6]
    fill(grid, lambda cell: None if cell.name in (failed, missing) else SCORES[cell.arm] + cell.seed / 100)
    grid.cell(failed).write_failure(f"The loss is not finite {HOSTILE}.")
    return grid


def open_studies(open_page: OpenPage, app: App, more: str = "", **options: Any) -> Any:
    page = open_page(app, query=f"tab=studies{more}", **options)
    page.wait_for_selector('.sv[data-state="ready"]')
    return page


def click_cell(page: Any, row: int, column: int) -> None:
    find = "document.querySelector('#study-view .sv').parentElement.studyMatrix"
    page.mouse.click(*page.evaluate(f"([row, column]) => {find}.xy(row, column)", [row, column]))


def test_a_stored_study_is_looked_at(app: App, stored: Grid, open_page: OpenPage) -> None:
    page = open_studies(open_page, app, "&study=stored")
    page.wait_for_selector("#studies-table-text table")
    total = len(stored.planned)
    assert f"{total - 2} of {total} cells done, 1 failed" in page.inner_text(".sv-state")
    assert "left" in page.inner_text(".sv-state") and "used" in page.inner_text(".sv-state")
    counts = page.inner_text(".sv-counts")
    assert f"{total - 2} done" in counts and "1 failed" in counts and "1 waiting" in counts
    table = page.inner_text("#studies-table-text table")
    assert "lora:learning_rate=1e-3" in table and "of 2, 1 failed" in table

    # The failed cell shows the reason; the address names the cell, so that a reload opens it again.
    failed = next(name for name, state in stored.states().items() if state == "failed")
    page.goto(f"{app.address}/?tab=studies&study=stored&cell={failed}")
    ready(page)
    page.wait_for_selector(f'.sv[data-cell="{failed}"]')
    assert f"Failed: The loss is not finite {HOSTILE}." in page.inner_text(".sv-cell-state")
    assert page.is_visible(".sv-retry") and not page.is_visible(".sv-playground")
    # A click on the matrix opens the cell at that position, and the arrow keys move from there.
    click_cell(page, 0, 0)
    page.wait_for_function("(name) => document.querySelector('.sv').dataset.cell !== name", arg=failed)
    assert page.inner_text("#sv-cell-title") == "jola"
    assert "0.810 (n = 100" in page.inner_text(".sv-card dl")
    page.wait_for_url(re.compile(r"cell=jola-"))
    page.focus(".sv-scroll")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.sv-card dl').textContent.includes('1,000')")

    # One arm for each method, and the figures.
    page.get_by_label("One arm per method").check()
    page.wait_for_function("() => document.querySelector('#studies-table-text').innerText.includes('best of 2')")
    page.get_by_role("tab", name="Data size", exact=True).click()
    page.wait_for_selector("#studies-sizes-plot .main-svg")
    page.get_by_role("tab", name="Pareto", exact=True).click()
    page.wait_for_selector("#studies-pareto-plot .main-svg")
    assert page.is_visible("#studies-show-cost") and page.is_visible("#studies-show-size")
    page.click("#studies-pareto-tools .vt-show")
    assert f"Grid.open({str(stored.folder)!r})" in page.inner_text("#studies-pareto-tools pre")
    with page.expect_download() as saved:
        page.click("#studies-pareto-tools .vt-csv")
    assert "peak_memory" in Path(saved.value.path()).read_text()
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.wait_for_function("() => !location.search.includes('study=')")


def test_folders_are_opened_and_what_is_no_grid_is_a_sentence(
    app: App, stored: Grid, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_studies(open_page, app, "&study=stored")
    page.fill("#sv-folder", str(tmp_path))
    page.get_by_role("button", name="Open folder").click()
    page.wait_for_selector("#studies-message [role=alert]")
    assert "no grid" in page.inner_text("#studies-message")
    assert page.get_attribute(".sv", "data-id") == "stored"
    grid = plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1])
    page.fill("#sv-folder", str(grid.folder))
    page.get_by_role("button", name="Open folder").click()
    page.wait_for_selector('.sv[data-id^="elsewhere-"][data-work="planned"]')
    page.get_by_role("button", name="Remove from the list").click()
    page.wait_for_selector('.sv:not([data-id^="elsewhere-"])')
    page.click(".sv-undo")
    page.wait_for_selector('.sv[data-id^="elsewhere-"]')
    page.get_by_role("button", name="Remove from the list").click()
    page.wait_for_selector('.sv:not([data-id^="elsewhere-"])')
    assert json.loads((grid.folder / "grid.json").read_text())["format"] == 1


def test_the_form_counts_cells_and_says_what_is_wrong(app: App, stored: Grid, open_page: OpenPage) -> None:
    page = open_studies(open_page, app, "&study=stored")
    says = "(words) => document.querySelector('#studies-cost').innerText.includes(words)"
    page.wait_for_function(says, arg="6 cells: 2 arms × 3 seeds, time known once a cell is done")
    page.click("#studies-tries input")
    page.get_by_role("option", name="3", exact=True).click()
    page.wait_for_function(says, arg="18 cells: 6 arms × 3 seeds")
    page.fill("#studies-seeds :is(input, textarea)", "1,x")
    page.wait_for_function(says, arg="Seeds names 'x'")
    page.click("#studies-preset input")
    page.get_by_role("option", name=re.compile("Table 2")).click()
    page.wait_for_function("() => /mlp/.test(document.querySelector('#studies-variants :is(input, textarea)').value)")
    page.fill("#studies-seeds :is(input, textarea)", "1,2,3")
    page.wait_for_function(says, arg="× 3 seeds")
    page.click("#studies-preset input")
    page.wait_for_selector("[role=option]")
    asked: list[str] = []
    page.on("request", lambda request: "/queue/join" in request.url and asked.append(request.url))
    page.keyboard.press("Tab")
    opened(page)
    assert not asked, "the list was left without a choice"
    page.click(".sv-more")
    page.wait_for_function(says, arg="Adds to the study shown: 26 cells: 4 arms × 2 tasks × 2 sizes × 2 seeds")


def test_ten_thousand_cells_are_drawn_without_an_element_for_each(app: App, open_page: OpenPage) -> None:
    arms = [f"jola:l0_weight={number}e-4" for number in range(1, 26)]
    plan(app.home / "studies" / "large", ["siqa", "boolq", "piqa", "obqa"], arms, list(range(100)))
    page = open_studies(open_page, app, "&study=large")
    page.wait_for_function("() => document.querySelector('.sv-counts').innerText.includes('10,000 waiting')")
    assert page.evaluate("document.querySelectorAll('#study-view *').length") < 400
    click_cell(page, 5, 7)
    page.wait_for_selector(".sv-card:not([hidden])")
    assert page.inner_text("#sv-cell-title") == "jola:l0_weight=6e-4"
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('.sv-scroll').scrollLeft > 1000")


HELD = """
import os, pathlib, sys, time

arguments = sys.orig_argv
if "cell" in arguments:
    cells = pathlib.Path(arguments[arguments.index("cell") + 1]) / "cells"
    while os.path.exists(os.environ["HOLD"]) and any(cells.glob("*/result.json")):
        time.sleep(0.05)
"""
"""Lets the cells of a study wait after the first one, while a file exists."""


@pytest.fixture
def holding_app(home: Path, tmp_path: Path) -> Iterator[App]:
    """An app whose studies do only their first cell while the file ``hold`` in its home folder exists."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HELD)
    home.mkdir(exist_ok=True)
    (home / "hold").touch()
    with started(home, home / "tmp", variables={"PYTHONPATH": str(site), "HOLD": str(home / "hold")}) as app:
        yield App(app.address, home, app.process)


def test_a_tiny_study_is_started_stopped_and_continued(
    holding_app: App, open_page: OpenPage, tiny_folder: Path, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task")
    page = open_studies(open_page, holding_app)
    page.set_default_timeout(TRAINING)
    assert "Compare methods over tasks and seeds" in page.inner_text(".sv-first")
    page.click(".sv-small")
    page.wait_for_function("() => document.querySelector('#studies-seeds :is(input, textarea)').value === '42, 43'")
    for name, value in (("tasks", task), ("models", str(tiny_folder))):
        page.click(f"#studies-{name} input")
        page.keyboard.press("Backspace")
        page.keyboard.type(value)
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    page.fill("#studies-train-sizes :is(input, textarea)", "8")
    page.wait_for_function(
        "() => document.querySelector('#studies-cost').innerText.includes('4 cells: 2 arms × 2 seeds')"
    )
    page.get_by_role("button", name="Start study").click()
    # It is stopped while it runs, after its first cell, and continued.
    page.wait_for_selector('.sv[data-work="working"]:not([data-done="0"])')
    page.click(".sv-stop")
    page.wait_for_selector('.sv[data-work="stopped"]')
    assert int(page.get_attribute(".sv", "data-done")) < 4
    (holding_app.home / "hold").unlink()
    page.click(".sv-resume")
    page.wait_for_selector('.sv:not([data-work="stopped"])')
    page.reload()
    ready(page)
    page.wait_for_selector('.sv:is([data-work="finished"], [data-work="failed"])')
    assert "4 of 4 cells done" in page.inner_text(".sv-state"), page.inner_text(".sv-study-log")
    for arm in ("jola", "lora"):
        expect(page.locator("#studies-table-text table").first).to_contain_text(arm)

    # Its cells are ordinary runs.
    click_cell(page, 0, 1)
    page.wait_for_selector(".sv-card:not([hidden])")
    cell = page.get_attribute(".sv", "data-cell")
    study = page.get_attribute(".sv", "data-id")
    page.click(".sv-answers")
    page.wait_for_selector("#answers-examples table")
    assert "6" in page.inner_text("#answers-panel")
    page.get_by_role("tab", name="Studies", exact=True).click()
    page.click(".sv-train")
    page.wait_for_selector(f'#run-view .rv[data-run="{study}/{cell}"][data-state="finished"]', state="attached")
    page.get_by_role("tab", name="Studies", exact=True).click()
    page.click(".sv-playground")
    page.wait_for_function("() => /edits are on/.test(document.querySelector('#mask-summary')?.innerText)")
