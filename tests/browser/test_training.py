"""Real training from the page: started, watched and cancelled, and its edits used in the Playground."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.runs.store import RunStore
from tests.browser.conftest import (
    PATIENCE,
    App,
    OpenPage,
    gate_map,
    opened,
    press_until,
    ready,
    recorded,
    serve,
    shown,
)

TRAINING = 600_000
"""Milliseconds within which a process should start, load its libraries and run its first steps beside other tests."""


def set_number(page: Any, name: str, value: float) -> None:
    page.fill(f"#setting-{name} input", str(value))


def type_choice(page: Any, name: str, value: str) -> None:
    """Type into a list that also takes other values."""
    page.fill(f"#setting-{name} input", value)
    page.keyboard.press("Enter")


def run_of(page: Any) -> str:
    page.wait_for_url(re.compile(r"\?run=."))
    return page.url.split("run=")[1]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with a tiny task."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    for part, count in (("train", 24), ("validation", 4), ("test", 4)):
        rows = [
            {"prompt": f"Good or bad? Film {number} <b>bold</b>", "completion": ("good", "bad")[number % 2]}
            for number in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def answer(page: Any, length: int) -> None:
    """Let both models generate an answer of ``length`` tokens, and wait for its end."""
    page.get_by_role("tab", name="Answers").click()
    opened(page)
    page.fill("#answer-length input", str(length))
    page.click("#answer")
    page.wait_for_function(
        "() => { const answers = [...document.querySelectorAll('#answers .jw-answer')]; return answers.length === 2 && "
        "answers.every(a => a.getAttribute('aria-busy') === 'false' && !a.matches('.jw-empty')); }"
    )
    page.wait_for_selector("#answer")


def picture(page: Any) -> str:
    """Return the map as drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(gate_map(page, "map.canvas.toDataURL()"))


def fill_tiny(page: Any, model: Path, task: Path, epochs: int) -> None:
    type_choice(page, "model", str(model))
    type_choice(page, "task", str(task))
    set_number(page, "epochs", epochs)


def test_from_start_to_an_answer(new_app: App, open_page: OpenPage, tiny_folder: Path, task: Path) -> None:
    page = open_page(new_app)
    fill_tiny(page, tiny_folder, task, 2)
    page.click(".jw-settings .jw-more button")
    expect(page.locator("#setting-data-seed input")).to_have_value("")
    page.click("#start")
    id = run_of(page)
    assert RunStore(new_app.runs).get(id).config()["data"]["data_seed"] is None
    page.set_default_timeout(TRAINING)
    shown(page, run=id, state="finished")
    assert "n = 4" in page.inner_text(".rv-result")

    page.set_default_timeout(PATIENCE)
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_selector("#playground-run input")
    page.click("#example")
    page.wait_for_selector("#right-answer [role=status]")
    assert page.inner_text("#right-answer") in ("Right answer: good", "Right answer: bad")
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("<b>bold</b>"))
    expect(page.locator("#tokens tbody tr")).to_have_count(10)
    answer(page, 6)

    page.fill("#prompt textarea", " ")
    # The answer to this change would remove the message below.
    expect(page.locator("#right-answer [role=status]")).to_have_count(0)
    press_until(page, "#answer", "#playground-message [role=alert]")
    assert "The prompt is empty" in page.inner_text("#playground-message")


def press(page: Any, selector: str) -> None:
    """Press a button without a mouse."""
    page.focus(selector)
    page.keyboard.press("Enter")


def test_a_run_outlives_reload_tabs_pauses_and_the_app(
    home: Path, open_page: OpenPage, tiny_folder: Path, task: Path
) -> None:
    with serve(home) as app:
        page = open_page(app)
        page.set_default_timeout(TRAINING)
        fill_tiny(page, tiny_folder, task, 5000)
        press(page, "#start")
        page.wait_for_selector("#cancel")
        id = run_of(page)
        run = RunStore(app.runs).get(id)
        shown(page, run=id, state="training")
        recorded(page, 8)

        page.reload()
        ready(page)
        shown(page, run=id, state="training")

        # A second page without an address finds the run that trains.
        other = open_page(app)
        other.set_default_timeout(TRAINING)
        shown(other, run=id, state="training")

        # A paused run can be continued at any time and remains the same run.
        press(page, "#pause")
        shown(page, run=id, state="paused")
        step = run.status()["step"]
        press(page, "#resume")
        shown(page, run=id, state="training")
        page.wait_for_function(
            "(step) => Number(document.querySelector('#run-view .rv').dataset.step) > step", arg=step
        )

        # After its first epoch, a running training has edits to use.
        assert (run.adapter_dir / "adapter_model.safetensors").is_file()
        page.get_by_role("tab", name="Playground").click()
        page.wait_for_function("() => document.querySelector('#playground-run input')?.value.includes('training')")

        # A second run waits for the first.
        other.wait_for_function("() => !document.querySelector('#start').disabled")
        fill_tiny(other, tiny_folder, task, 1)
        other.click("#start")
        other.wait_for_selector("#start-message [role=status]")
        second = run_of(other)
        assert "Queued" in other.inner_text("#start-message") and second != id
        shown(other, run=second, state="queued")
        for one in (page, other):
            one.goto("about:blank")

    assert run.alive
    with serve(home) as app:
        page, other = open_page(app, id), open_page(app, second)
        shown(page, run=id, state="training")
        shown(other, run=second, state="queued")
        page.set_default_timeout(TRAINING)
        other.set_default_timeout(TRAINING)
        press(page, "#cancel")
        shown(page, run=id, state="cancelled")
        shown(other, run=second, state="finished")
        for one in (page, other):
            one.goto("about:blank")
        assert run.status()["step"] < run.status()["total_steps"]
        assert (run.adapter_dir / "adapter_model.safetensors").is_file()


def test_a_run_that_cannot_be_trained_shows_why(new_app: App, open_page: OpenPage, tiny_folder: Path) -> None:
    page = open_page(new_app)
    page.set_default_timeout(TRAINING)
    fill_tiny(page, tiny_folder, Path("/no/such/task"), 1)
    page.click("#start")
    shown(page, state="failed")
    assert "There is no task, folder or file '/no/such/task'" in page.inner_text(".rv-message")
    expect(page.locator(".rv-log pre")).to_contain_text("There is no task, folder or file '/no/such/task'")


@pytest.mark.default_model
def test_one_click_on_the_default_model(default_app: App, open_page: OpenPage) -> None:
    page = open_page(default_app)
    page.set_default_timeout(TRAINING)
    set_number(page, "train-size", 16)
    set_number(page, "test-size", 8)
    set_number(page, "epochs", 1)
    page.click("#start")
    id = run_of(page)
    recorded(page, 2)
    assert gate_map(page, "[map.frame.layers, map.frame.units]") == [30, 9]
    shown(page, run=id, state="finished")
    looks = {picture(page)}
    page.focus(".rv-slider")
    page.keyboard.press("Home")
    shown(page, step=0)
    looks.add(picture(page))
    assert len(looks) == 2
    assert "n = 8" in page.inner_text(".rv-result")

    page.set_default_timeout(PATIENCE)
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_selector("#tokens tbody tr")  # the tab has opened the run
    page.click("#example")
    page.wait_for_selector("#right-answer [role=status]")
    page.wait_for_selector("#tokens tbody tr")
    answer(page, 4)
