"""The Compare tab in a real Chromium: with made-up comparisons, and once with the default model."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.config import DataConfig, RunConfig
from jola.errors import InputError
from jola.selectors import HeadSet
from jola.studies.results import Comparison
from tests.browser.conftest import PATIENCE, App, OpenPage, opened, ready, shown, wait_for
from tests.workbench.compare.compared import make_comparison
from tests.workbench.served import serve
from workbench.service.comparison_plan import Plan

COMPARING = 600_000
"""Milliseconds within which three tiny training runs should end while other tests run."""
HOSTILE = "<img src=x onerror=alert(1)>"
PLAN = Plan(("jola", "dsp", "gradient", "random"), (), ("auto", "3"), (1, 2))


@pytest.fixture(scope="module")
def stored(app: App) -> Comparison:
    """A finished comparison in the shared app, and an older stopped one with a hostile name of data."""
    root = app.home / "comparisons"
    config = RunConfig(data=DataConfig(task=f"/data/{HOSTILE}.jsonl"))
    make_comparison(root / "stopped", undone=2, config=config)
    return make_comparison(root / "stored", PLAN)


def open_compare(open_page: OpenPage, app: App, id: str = "", **options: Any) -> Any:
    page = open_page(app, f"&tab=compare{f'&comparison={id}' if id else ''}", **options)
    page.wait_for_selector('.cv[data-state="ready"]')
    return page


def drawn(page: Any, view: str) -> None:
    page.wait_for_selector(f"#compare-{view}-plot .js-plotly-plot .main-svg")


def test_a_stored_comparison_is_looked_at(app: App, stored: Comparison, open_page: OpenPage) -> None:
    page = open_compare(open_page, app, "stored")
    drawn(page, "heads")
    assert page.inner_text("#cv-title") == "JoLA's gates, DSP, Gradient importance, Random · K auto, 3 · 2 seeds"
    assert "18 of 18 training runs done" in page.inner_text(".cv-state")
    # The legend names the methods and how many heads each selected; the table lists the heads.
    legend = page.text_content("#compare-heads-plot .legend")
    assert "JoLA's gates" in legend and "Random" in legend
    page.click("#compare-heads-text summary")
    assert page.locator("#compare-heads-text tbody tr").count() > 8

    # Other readings of the map.
    for reading, words in (("How many agree", "How many methods agree"), ("Each against JoLA", "against JoLA's gates")):
        page.get_by_label(reading).check()
        page.wait_for_function(
            "(words) => document.querySelector('#compare-heads-plot .gtitle')?.textContent.includes(words)", arg=words
        )
    page.get_by_label("Which methods").check()
    page.wait_for_selector("#compare-heads-plot .legend >> text=Random")

    # Another K: the sets are the small ones.
    page.click("#compare-show-k input")
    page.get_by_role("option", name="3", exact=True).click()
    page.wait_for_function("() => /DSP\\s+3/.test(document.querySelector('#compare-heads-plot .legend')?.textContent)")
    # One method fewer.
    page.get_by_label("Random", exact=True).uncheck()
    page.wait_for_function(
        "() => !document.querySelector('#compare-heads-plot .legend')?.textContent.includes('Random')"
    )
    for name, views in (("Overlap", ("overlap", "ranks", "layers")), ("Accuracy", ("forest", "accuracy", "costs"))):
        page.get_by_role("tab", name=name, exact=True).click()
        for view in views:
            drawn(page, view)
    rows = page.inner_text("#compare-forest-text table")
    assert "JoLA" in rows and "40 × 2" in rows and "Random" not in rows
    page.click("#compare-accuracy-tools .vt-show")
    assert f"Comparison.open({str(stored.folder)!r})" in page.inner_text("#compare-accuracy-tools pre")
    with page.expect_download() as saved:
        page.click("#compare-accuracy-tools .vt-csv")
    assert "selection_seconds" in Path(saved.value.path()).read_text()

    # The address opens the comparison again, and names it only while the Compare tab is open.
    page.reload()
    ready(page)
    drawn(page, "heads")
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.wait_for_function("() => !location.search.includes('comparison')")


def test_a_set_is_taken_along_and_trained_on(app: App, stored: Comparison, open_page: OpenPage) -> None:
    page = open_compare(open_page, app, "stored")
    drawn(page, "heads")
    assert "DSP" in page.input_value("#compare-pick input")
    with page.expect_download() as saved:
        page.click("#compare-set-tools .vt-json")
    heads = HeadSet.from_dict(json.loads(Path(saved.value.path()).read_text()))
    assert heads == stored.head_sets(1, "auto")["dsp"]
    assert heads.to_text() in page.inner_text("#compare-set-text")
    page.click("#compare-playground")
    page.wait_for_selector("#compare-set-message [role=alert]")
    assert "no run here has that shape" in page.inner_text("#compare-set-message")
    page.click("#compare-train")
    page.wait_for_selector("#start-message [role=status]")
    assert "9 heads of DSP (K auto, seed 1)" in page.inner_text("#start-message")
    expect(page.locator("#setting-gates input")).to_have_value("none")
    page.get_by_text("More settings").first.click()
    expect(page.locator("#setting-heads :is(input, textarea)")).to_have_value(heads.to_text())


def test_the_form_goes_on_with_the_comparison_shown(app: App, stored: Comparison, open_page: OpenPage) -> None:
    page = open_compare(open_page, app, "stored")
    drawn(page, "heads")
    page.click(".cv-more")
    page.wait_for_selector("#compare-message [role=status]")
    assert "tick more selectors" in page.inner_text("#compare-message")
    expect(page.locator("#compare-k :is(input, textarea)")).to_have_value("auto,3")
    expect(page.locator("#compare-seeds :is(input, textarea)")).to_have_value("1,2")
    says = "(words) => document.querySelector('#compare-cost').innerText.includes(words)"
    page.wait_for_function(says, arg="All of this is done already")
    page.locator("#compare-selectors").get_by_label("Offset saliency").check()
    # One selection per seed, and one training per K and seed.
    page.wait_for_function(says, arg="Continues the comparison shown: 4 training runs and 2 selections")
    page.fill("#compare-seeds :is(input, textarea)", "1")
    page.wait_for_function(says, arg="Continues the comparison shown: 2 training runs and 1 selection")
    page.fill("#compare-epochs input", "3")
    page.wait_for_function("() => !document.querySelector('#compare-cost').innerText.includes('Continues')")


def test_the_list_shows_all_and_what_is_deleted_comes_back(app: App, stored: Comparison, open_page: OpenPage) -> None:
    page = open_compare(open_page, app, "stopped")
    page.wait_for_selector('.cv[data-id="stopped"]')
    assert HOSTILE in page.inner_text(".cv-about")
    assert "Stopped · 5 of 7 training runs done" in page.inner_text(".cv-state")
    assert page.is_visible(".cv-resume") and not page.is_visible(".cv-stop")
    page.focus(".cv-remove")
    page.keyboard.press("Enter")
    page.wait_for_selector('.cv[data-count="2"]:not([data-id="stopped"])')
    page.click(".cv-undo")
    page.wait_for_selector('.cv[data-id="stopped"][data-count="3"]')
    page.get_by_role("button", name="JoLA's gates, DSP").click()
    page.wait_for_selector('.cv[data-id="stored"]')
    drawn(page, "heads")
    page.wait_for_url(re.compile(r"comparison=stored"))


def test_only_what_this_page_deleted_can_be_undone(
    tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as served:
        comparisons = served.bench.comparisons
        for id in ("one", "two", "three"):
            make_comparison(comparisons.root / id, PLAN)
        asked, gates, remove = [], {"one": threading.Event(), "two": threading.Event()}, comparisons.remove

        def slowly(id: str) -> None:
            asked.append(id)
            if id == "three":
                raise InputError("This comparison is running.")
            gates[id].wait()
            remove(id)

        monkeypatch.setattr(type(comparisons), "remove", lambda self, id: slowly(id))
        app = App(served.address, tmp_path)
        page = open_compare(open_page, app, "three")
        page.wait_for_selector('.cv[data-id="three"]')
        page.click(".cv-remove")
        page.wait_for_selector("#compare-message [role=alert]")
        remove("three")
        page.wait_for_selector('.cv[data-count="2"]')
        assert not page.is_visible(".cv-toast"), "somebody else deleted it"
        try:
            for id in ("one", "two"):
                page.click(f'.cv tr[data-id="{id}"] button')
                page.wait_for_selector(f'.cv[data-id="{id}"]')
                page.click(".cv-remove")
                wait_for(page, lambda id=id: asked[-1] == id)  # deletions may run at the same time
            gates["one"].set()
            page.wait_for_selector('.cv-toast:not([hidden]) .cv-undo[data-id="one"]')
            gates["two"].set()
            page.wait_for_selector('.cv-toast:not([hidden]) .cv-undo[data-id="two"]')
        finally:
            for gate in gates.values():
                gate.set()
        page.close()  # before its server is gone
        assert asked == ["three", "one", "two"]


def test_what_cannot_be_compared_is_a_sentence(app: App, stored: Comparison, open_page: OpenPage) -> None:
    page = open_compare(open_page, app)
    page.wait_for_function("() => document.querySelector('#compare-cost').textContent")
    opened(page)
    page.fill("#compare-k :is(input, textarea)", "0")
    page.wait_for_function("() => document.querySelector('#compare-cost').textContent.includes(\"K is '0'\")")
    page.wait_for_selector("#compare-start:not([disabled])")
    page.click("#compare-start")
    page.wait_for_selector("#compare-message [role=alert]")
    assert page.inner_text("#compare-message") == "K is '0'; it must be auto, halves or a number of heads above 0."
    assert page.get_attribute(".cv", "data-count") == "3"


@pytest.mark.default_model
def test_two_quick_selectors_on_the_default_model(default_app: App, open_page: OpenPage) -> None:
    page = open_compare(open_page, default_app)
    assert "Which heads are worth editing?" in page.inner_text(".cv-first")
    page.click(".cv-small")
    page.wait_for_function("() => document.querySelector('#compare-k :is(input, textarea)').value === '16'")
    page.fill("#compare-train-size input", "8")
    page.fill("#compare-test-size input", "4")
    page.wait_for_function(
        "() => document.querySelector('#compare-cost').textContent.includes('3 training runs and 2 selections')"
    )
    page.click("#compare-start")
    page.set_default_timeout(COMPARING)
    page.wait_for_selector('.cv[data-work="working"]')
    assert page.is_visible(".cv-stop") and page.is_visible(".cv-progress")
    # Results appear one after the other; a reload finds the comparison again.
    drawn(page, "heads")
    page.reload()
    ready(page)
    page.wait_for_selector('.cv:is([data-work="finished"], [data-work="failed"])')
    assert "3 of 3 training runs done" in page.inner_text(".cv-state"), page.inner_text(".cv-log")
    page.wait_for_function(
        "() => /JoLA's gates\\s+16.*Gradient importance\\s+16.*Offset saliency\\s+16/"
        ".test(document.querySelector('#compare-heads-plot .legend')?.textContent)"
    )
    table = page.locator("#compare-heads-text tbody tr")
    assert 16 <= table.count() <= 3 * 16

    page.click("#compare-train")
    page.wait_for_selector("#start-message [role=status]")
    assert "16 heads of" in page.inner_text("#start-message")
    page.click("#start")
    page.wait_for_url(re.compile(r"run=[^&]"))
    run = re.findall(r"run=([^&]+)", page.url)[0]
    shown(page, run=run, state="finished")
    config = json.loads((default_app.runs / run / "config.json").read_text())
    # The sample comparison is among the comparisons too; only the one of this test has these seeds.
    comparisons = default_app.home / "comparisons"
    found = [next(comparisons.glob(f"*/cells/edit-{m}-k16-seed42/result.json")) for m in ("gradient", "offset")]
    sets = [json.loads(file.read_text()) for file in found]
    gradient, offset = (HeadSet.from_dict(cell["heads"]) for cell in sets)
    assert config["edits"]["gates"] == "none" and config["edits"]["heads"] == gradient.to_text()
    assert config["data"]["train_size"] == 8

    # The Playground shows the other set as the mask of that run, which has edits only in its own heads.
    page.set_default_timeout(PATIENCE)
    page.get_by_role("tab", name="Compare", exact=True).click()
    drawn(page, "heads")
    page.click("#compare-pick input")
    page.get_by_role("option", name="Offset saliency", exact=True).click()
    page.wait_for_function(
        "(heads) => document.querySelector('#compare-set-text .cv-heads')?.textContent === heads", arg=offset.to_text()
    )
    page.click("#compare-playground")
    common = 2 * len(gradient & offset)
    words = f"{common} of 32 edits are on" if 0 < common < 32 else f"All 32 edits are o{'n' if common else 'ff'}"
    page.wait_for_function("(words) => document.querySelector('#mask-summary')?.innerText.startsWith(words)", arg=words)
