"""RED and LoRA in the page: chosen, trained, viewed, and switched in the Playground."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.methods.lora import LoRAConfig
from jola.methods.red import REDConfig
from tests.browser.conftest import PATIENCE, App, OpenPage, gate_map, shown
from tests.browser.test_training import TRAINING, fill_tiny, run_of, set_number
from tests.workbench.edited import edited_run

METHODS: dict[str, Any] = {"LoRA": LoRAConfig(rank=2), "RED": REDConfig()}
MAP = "document.querySelector('#edit-map .em').parentElement.editMap"
SITES = {"LoRA": ("weights", ["update"]), "RED": ("mlp", ["offset", "scale"])}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with a tiny task."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    for part, count in (("train", 8), ("validation", 4), ("test", 4)):
        rows = [
            {"prompt": f"Good or bad? Film {number}", "completion": ("good", "bad")[number % 2]}
            for number in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def choose_method(page: Any, title: str) -> None:
    page.click("#setting-method input")
    page.get_by_role("option", name=title, exact=True).click()


def test_the_form_follows_the_method(app: App, open_page: OpenPage) -> None:
    page = open_page(app)
    page.wait_for_selector("#setting-l0-weight", state="visible")
    choose_method(page, "LoRA")
    page.wait_for_selector("#setting-lora-rank", state="visible")
    expect(page.locator("#method-summary")).to_contain_text("low-rank")
    for hidden in ("l0-weight", "gate-learning-rate", "sites", "red-layers"):
        page.wait_for_selector(f"#setting-{hidden}", state="hidden")
    expect(page.locator("#setting-learning-rate input")).to_have_value("0.001")
    choose_method(page, "JoLA")
    page.wait_for_selector("#setting-l0-weight", state="visible")
    page.wait_for_selector("#setting-lora-rank", state="hidden")
    expect(page.locator("#setting-learning-rate input")).to_have_value("0.005")


@pytest.mark.parametrize("title", SITES)
def test_from_the_choice_of_a_method_to_a_switched_unit(
    new_app: App, open_page: OpenPage, tiny_folder: Path, task: Path, title: str
) -> None:
    site, channels = SITES[title]
    page = open_page(new_app)
    choose_method(page, title)
    page.wait_for_selector("#setting-l0-weight", state="hidden")
    fill_tiny(page, tiny_folder, task, 2)
    set_number(page, "learning-rate", 0.05)
    page.click("#start")
    page.set_default_timeout(TRAINING)
    id = run_of(page)
    shown(page, run=id, state="finished", gates="false", shows="size")
    page.set_default_timeout(PATIENCE)

    assert page.inner_text("#rv-title") == f"Edits of {title}"
    assert page.inner_text(".gm-high").endswith("norm of the edit")
    assert gate_map(page, "[map.frame.site, map.frame.channels]") == [site, channels]
    assert int(page.get_attribute("#run-view .rv", "data-open")) > 0
    for gone in (".gm-colours", ".rv-states", ".rv-rate-l0", "[data-panel=rv-course]"):
        assert not page.is_visible(gone)
    assert page.is_visible(".rv-norms")
    assert "gates" not in page.inner_text(".rv-result")
    page.focus(".gm-canvas")
    said = page.inner_text(".gm-say")
    assert re.search(r"Layer 0, \w+: norm of the (update|offset) [\d.]+", said), said
    page.click("[data-panel=rv-table]")
    assert page.locator(".rv-table table").count() == len(channels)

    page.get_by_role("tab", name="Playground").click()
    page.wait_for_selector(f"#edit-map .em[data-site={site}]", state="attached")
    page.wait_for_selector("#tokens [data-masks='']", state="attached")
    before = page.text_content("#tokens .jw-picture")
    place = page.evaluate(f"() => {MAP}.position({MAP}.channels[0], 1, 0)")
    page.mouse.click(*place)
    page.wait_for_selector(f"#tokens [data-masks^='{site}:']", state="attached")
    assert page.text_content("#tokens .jw-picture") != before
    expect(page.locator("#mask-summary")).to_contain_text(f"1 {channels[0]} is off")
    page.keyboard.press("i")
    page.wait_for_selector("#head-missing .jw-note")
    assert "no attention pattern" in page.inner_text("#head-missing")
    expect(page.locator("#head-offset")).to_contain_text(f"Strength of its {channels[0]}")
    page.click("#mask-all")
    page.wait_for_selector("#tokens [data-masks='']", state="attached")
    assert page.text_content("#tokens .jw-picture") == before


def test_two_methods_answer_side_by_side(app: App, open_page: OpenPage, tiny_folder: Path) -> None:
    runs = {
        title: edited_run(app.runs / f"beside-{title.lower()}", tiny_folder, edits=settings)
        for title, settings in METHODS.items()
    }
    runs["RED"].annotate(label="Beside RED")
    page = open_page(app, f"{runs['LoRA'].id}&tab=playground&prompt=A fine film")
    page.set_default_timeout(TRAINING)
    page.wait_for_selector("#tokens table")
    page.wait_for_selector("#edit-map .em[data-site=weights]", state="attached")
    before = page.inner_text("#tokens .jw-picture")
    page.get_by_role("button", name="Compare or combine with other runs").click()
    page.click("#other-runs input")
    page.get_by_role("option").filter(has_text="Beside RED").first.click()
    page.wait_for_function("(b) => document.querySelector('#tokens .jw-picture').innerText !== b", arg=before)
    # Token, base, the two runs, and their spread.
    assert page.locator("#tokens thead th").count() == 5
    assert page.locator("#tokens .jw-likeliest").count() == 2
    # A unit of the first method is switched, and the column of the second one stays.
    column = "() => [...document.querySelectorAll('#tokens tbody tr')].map(row => row.cells[3].innerText)"
    both = page.inner_text("#tokens .jw-picture")
    second = sorted(page.evaluate(column))
    place = page.evaluate(f"() => {MAP}.position({MAP}.channels[0], 2, 0)")
    page.mouse.click(*place)
    page.wait_for_selector("#tokens [data-masks^='weights:']", state="attached")
    page.wait_for_function("(b) => document.querySelector('#tokens .jw-picture').innerText !== b", arg=both)
    assert set(second) & set(page.evaluate(column))


def test_a_zero_shot_run_is_titled_as_what_it_is(
    new_app: App, open_page: OpenPage, tiny_folder: Path, task: Path
) -> None:
    page = open_page(new_app)
    choose_method(page, "Zero-shot")
    page.wait_for_selector("#setting-l0-weight", state="hidden")
    for name, value in (("model", tiny_folder), ("task", task)):
        page.fill(f"#setting-{name} input", str(value))
        page.keyboard.press("Enter")
    page.click("#start")
    page.set_default_timeout(TRAINING)
    page.wait_for_function("() => document.querySelector('.rv-result').innerText.includes('n = 4')")
    assert page.inner_text("#rv-title") == "Base model without edits"
    page.wait_for_function("() => document.querySelector('.rv-waiting-words').innerText.includes('trains nothing')")
    assert not page.is_visible(".rv-meaning") and page.inner_text(".rv-result-box h2").lower() == "result"
