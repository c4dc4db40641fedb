"""The Train tab in a browser: the map of a run, during training and afterwards."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from jola.config import EditConfig, RunConfig, TrainingConfig
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.browser.conftest import PATIENCE, App, OpenPage, gate_map, ready, shown, wait_for
from tests.workbench.recorded import Recorder, gate_values
from workbench.service.processes import Turns
from workbench.service.waiting import Waiting

HOSTILE = "<img src=x onerror=alert(1)>"


def record(app: App, name: str, **shape: Any) -> Recorder:
    return Recorder(app.runs / name, **{"steps": 40, "layers": 6, "units": 4, **shape})


def drawn(page: Any) -> None:
    """Wait until the map shows the latest record, which it draws in the next frame."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def cell(page: Any, half: str, layer: int, unit: int) -> tuple[float, float]:
    """Return the position of a cell in the window."""
    drawn(page)
    x, y = gate_map(page, "map.position(...args)", half, layer, unit)
    return x, y


def colour(page: Any, half: str, layer: int, unit: int) -> list[int]:
    """Return red, green and blue of a cell, from the canvas itself."""
    drawn(page)
    x, y = gate_map(
        page, "(box => [box.x + box.width / 2, box.y + box.height / 2])(map.cell(...args))", half, layer, unit
    )
    pixel = "Array.from(map.context.getImageData(...args.map(at => Math.round(at * devicePixelRatio)), 1, 1).data)"
    return gate_map(page, pixel, x, y)[:3]


def test_where_there_is_no_run_one_is_told_what_to_do(new_app: App, open_page: OpenPage) -> None:
    for run in RunStore(new_app.runs).list():  # the sample
        shutil.rmtree(run.path)
    page = open_page(new_app)
    assert page.locator(".rv-first").is_visible()
    assert "Start training" in page.inner_text(".rv-first")
    assert page.locator("#start").is_visible() and not page.locator("#cancel").is_visible()
    assert not page.locator(".rv-rail").is_visible()


def test_a_recorded_run_is_shown(app: App, open_page: OpenPage) -> None:
    record(app, "recorded").until(40).finish()
    page = open_page(app, "recorded")
    shown(page, run="recorded", state="finished", step=40, records=41)
    assert "86.0 %" in page.inner_text(".rv-result") and "n = 500" in page.inner_text(".rv-result")
    assert page.inner_text(".rv-message") == "Finished"
    gates = gate_values(40, 40, 6, 4)
    counts = [int(page.inner_text(f".rv-count-{state}")) for state in ("none", "offset", "scale", "both")]
    assert sum(counts) == 24
    assert counts[1] + counts[3] == int((gates["offset_gate"] > 0).sum())
    closed = [(layer, unit) for layer in range(6) for unit in range(4) if gates["scale_gate"][layer, unit] == 0]
    assert colour(page, "scale", *closed[0]) == [0, 34, 78]


def test_pointing_at_a_cell_reads_it(app: App, open_page: OpenPage) -> None:
    record(app, "pointing").until(10)
    page = open_page(app, "pointing")
    shown(page, run="pointing", step=10)
    page.mouse.move(*cell(page, "scale", 3, 2))
    value = gate_values(10, 40, 6, 4)["offset_gate"][3, 2]
    page.wait_for_function("() => !document.querySelector('.gm-tip').hidden")
    read = page.inner_text(".gm-readout")
    assert read.startswith("Layer 3, head 2: offset gate ")
    assert float(re.findall(r"offset gate ([\d.]+)", read)[0]) == pytest.approx(value, abs=0.006)
    assert "Layer 3, head 2" in page.inner_text(".gm-tip")
    page.mouse.move(5, 5)
    page.wait_for_function("() => document.querySelector('.gm-tip').hidden")


def test_the_map_is_read_by_keyboard(app: App, open_page: OpenPage) -> None:
    record(app, "keyboard").until(10)
    page = open_page(app, "keyboard")
    shown(page, run="keyboard", step=10)
    page.focus(".gm-canvas")
    for key in ("ArrowDown", "ArrowDown", "End", "m"):
        page.keyboard.press(key)
    said = page.locator(".gm-say")
    assert said.get_attribute("aria-live") == "polite"
    assert said.inner_text().startswith("scale half. Layer 2, head 3: offset gate")
    page.keyboard.press("Shift+ArrowDown")
    assert "Layer 5, head 3" in said.inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    assert "Layer 0, head 0" in said.inner_text()


def test_everything_is_reached_by_tab(app: App, open_page: OpenPage) -> None:
    record(app, "tabbing").until(10)
    page = open_page(app, "tabbing")
    shown(page, run="tabbing", step=10)
    wanted = {"setting-model", "setting-task", "setting-epochs", "cancel", "gm-canvas", "rv-slider"}
    for _ in range(60):
        page.keyboard.press("Tab")
        places = page.evaluate(
            "() => { let node = document.activeElement, names = []; for (; node; node = node.parentElement) "
            "names.push(node.id, ...node.classList); return names; }"
        )
        wanted -= set(places)
        if not wanted:
            break
    assert wanted == set()


def test_a_page_on_which_nothing_happens_draws_nothing(app: App, open_page: OpenPage) -> None:
    Recorder(app.runs / "quiet", steps=5).until(5).finish()
    page = open_page(app, "quiet")
    page.add_init_script(
        """window.frames = 0;
        const request = window.requestAnimationFrame;
        window.requestAnimationFrame = (callback) => { window.frames += 1; return request.call(window, callback); };"""
    )
    page.reload()
    ready(page)
    shown(page, run="quiet")
    page.wait_for_function(
        """async () => {
          const before = window.frames;
          await new Promise((resolve) => setTimeout(resolve, 1000));
          return window.frames - before <= 2;
        }"""
    )


def test_a_growing_run_appears_on_the_map(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "growing").until(3)
    page = open_page(app, "growing")
    shown(page, run="growing", step=3, state="training")
    before = page.get_attribute("#run-view .rv", "data-open")
    assert page.locator("#cancel").is_visible() and page.locator("#pause").is_visible()
    mounted = page.evaluate("() => { document.querySelector('.gm-canvas').mark = 1; return window.jolaRunView; }")
    for step in range(4, 40):
        recorder.step(step)
    shown(page, step=39, records=40)
    page.wait_for_selector(".rv-fact-step:text-is('39 / 40')")
    assert int(page.get_attribute("#run-view .rv", "data-open")) < int(before)
    # The canvas is the same: it was not replaced, which would flicker.
    assert page.evaluate("() => [document.querySelector('.gm-canvas').mark, window.jolaRunView]") == [1, mounted]
    recorder.step(40)
    recorder.finish()
    shown(page, state="finished", step=40)
    page.wait_for_selector("#cancel", state="hidden")


def test_a_run_without_gates_says_what_it_waits_for(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "waiting")
    page = open_page(app, "waiting")
    shown(page, run="waiting")
    assert "first step" in page.inner_text(".rv-waiting")
    recorder.until(1)
    shown(page, step=1)
    assert page.locator(".gm-canvas").is_visible() and not page.locator(".rv-waiting").is_visible()


def test_replay_shows_any_step_and_returns(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "replay").until(20)
    page = open_page(app, "replay")
    shown(page, run="replay", step=20)
    page.focus(".rv-slider")
    page.keyboard.press("Home")
    shown(page, step=0)
    page.keyboard.press("ArrowRight")
    shown(page, step=1)
    recorder.step(21)
    shown(page, step=1, records=22)  # the run continues, the map stays
    page.click(".rv-follow")
    shown(page, step=21)


def test_a_link_opens_a_run_at_a_step(app: App, open_page: OpenPage) -> None:
    record(app, "linked-other").until(3).finish()
    recorder = record(app, "linked").until(20)
    page = open_page(app, "linked&tab=train&step=7")
    shown(page, run="linked", step=7, records=21)
    assert page.get_attribute(".rv-slider", "aria-valuetext") == "step 7"
    recorder.step(21)
    shown(page, step=7, records=22)
    page.focus(".rv-slider")
    page.keyboard.press("ArrowRight")
    shown(page, step=8)
    page.wait_for_url(re.compile(r"run=linked&.*step=8"))
    page.reload()
    ready(page)
    shown(page, step=8)
    page.click(".rv-follow")
    shown(page, step=21)
    page.wait_for_url(lambda url: "step=" not in url)
    # A link to a future step follows the run; another run opens at its last step.
    page.goto(f"{app.address}/?run=linked&step=30")
    ready(page)
    shown(page, step=21)
    recorder.step(22)
    shown(page, step=22)
    page.focus("#run-picker input")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    shown(page, run="linked-other", step=3)
    page.wait_for_url(lambda url: "step=" not in url)


def test_reload_attaches_to_the_same_run(app: App, open_page: OpenPage) -> None:
    record(app, "reload-old").until(5).finish()
    recorder = record(app, "reload").until(5)
    record(app, "reload-newer").until(2).finish()
    page = open_page(app, "reload")
    shown(page, run="reload", step=5)
    page.reload()
    ready(page)
    shown(page, run="reload", step=5)
    recorder.step(6)
    shown(page, run="reload", step=6)
    # Without the run in the address, the browser still remembers it.
    page.goto(app.address)
    ready(page)
    shown(page, run="reload")
    recorder.finish("cancelled")


def test_another_run_is_picked_from_the_list(app: App, open_page: OpenPage) -> None:
    record(app, "other").until(4).finish("cancelled")
    record(app, "picked").until(7).finish("cancelled")
    page = open_page(app, "other")
    shown(page, run="other", step=4)
    page.focus("#run-picker input")
    page.keyboard.press("ArrowUp")  # the list is newest first
    page.keyboard.press("Enter")
    shown(page, run="picked", step=7)
    page.wait_for_url("**/?run=picked")


def test_the_table_holds_the_same_numbers(app: App, open_page: OpenPage) -> None:
    record(app, "table").until(30)
    page = open_page(app, "table")
    shown(page, run="table", step=30)
    page.click("[data-panel=rv-table]")
    tables = page.locator(".gm-table-body table")
    tables.first.wait_for()
    assert tables.count() == 2
    rows = tables.nth(1).locator("tbody tr")
    assert rows.count() == 6
    gates = gate_values(30, 40, 6, 4)["scale_gate"][2]
    texts = rows.nth(2).locator("td").all_inner_texts()
    assert int(texts[0]) == int((gates > 0).sum())
    for text, gate in zip(texts[1:], gates, strict=True):
        assert (text == "closed") == (gate == 0)
        assert text in ("closed", "< 0.01") or float(text) == pytest.approx(gate, abs=0.006)
        assert text != "< 0.01" or gate < 0.01


def choose_colour(page: Any, shows: str) -> None:
    page.click(f"[data-shows={shows}]")
    page.wait_for_selector(f"#run-view .rv[data-shows={shows}]", state="attached")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_colour_means_what_is_chosen_also_in_replay(app: App, open_page: OpenPage) -> None:
    record(app, "colours").until(12)
    page = open_page(app, "colours")
    shown(page, run="colours", step=12, shows="gate")
    gates = gate_values(12, 40, 6, 4)
    at = np.unravel_index(np.argmax(gates["offset_norm"]), (6, 4))
    looks = {}
    for shows, ends in (("gate", "1 fully open"), ("open", "1 surely open"), ("norm", "0.5 (L2 norm)")):
        choose_colour(page, shows)
        looks[shows] = colour(page, "offset", int(at[0]), int(at[1]))
        assert page.inner_text(".gm-high") == ends
    # The gate is 0.96 of its scale; its norm, 0.4 times the gate, is 0.77 of 0.5.
    assert looks["open"][0] >= looks["gate"][0] > looks["norm"][0]
    choose_colour(page, "state")
    assert page.locator(".gm-states").is_visible() and not page.locator(".gm-scale").is_visible()
    both = gates["offset_gate"][at] > 0 and gates["scale_gate"][at] > 0
    colours = page.evaluate("() => getComputedStyle(document.body).getPropertyValue('--jw-state-both').trim()")
    # Not in the middle, where the sign is.
    corner = gate_map(page, "(box => [box.x + 2, box.y + 2])(map.cell('offset', ...args))", *map(int, at))
    pixel = gate_map(page, "Array.from(map.context.getImageData(...args, 1, 1).data)", *corner)
    assert both and "#" + bytes(pixel[:3]).hex() == colours
    page.mouse.move(*cell(page, "offset", int(at[0]), int(at[1])))
    page.wait_for_selector(".gm-tip:not([hidden])")
    tip = page.inner_text(".gm-tip").splitlines()
    assert tip[0].endswith("both edits") and re.fullmatch(r"offset gate .*, P\(open\) .*, norm 0\.\d+", tip[1])
    # The slider replays any step with the chosen colours.
    choose_colour(page, "norm")
    page.focus(".rv-slider")
    page.keyboard.press("Home")
    shown(page, step=0, shows="norm")
    assert page.inner_text(".gm-high") == "0.5 (L2 norm)"


def test_an_untrained_half_is_said_to_be_none(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "half")
    values = {name: v * (np.nan if name.startswith("scale") else 1) for name, v in gate_values(0, 40, 6, 4).items()}
    with recorder.run.gate_writer("heads", 6, 4) as writer:
        writer.append(0, values)
    recorder.run.write_result({"closed": {"offset": 0.4, "scale": None}, "test": None})
    recorder.run.write_status(state="finished")
    page = open_page(app, "half")
    shown(page, run="half", step=0)
    assert "not trained" in page.inner_text(".rv-result")
    counts = [page.inner_text(f".rv-count-{state}") for state in ("none", "offset", "scale", "both")]
    assert counts == ["0", "24", "–", "–"]
    spots = [
        gate_map(page, "(box => [box.x + 3, box.y + 3])(map.cell(...args))", half, 1, 0) for half in ("offset", "scale")
    ]
    opaque = [gate_map(page, "map.context.getImageData(...args, 1, 1).data[3]", *map(round, spot)) for spot in spots]
    assert opaque == [255, 0]  # nothing is drawn where nothing is trained
    page.mouse.move(*cell(page, "scale", 1, 1))
    page.wait_for_selector(".gm-tip:not([hidden])")
    assert page.inner_text(".gm-tip").splitlines()[2] == "scale not trained"
    page.click("[data-panel=rv-table]")
    page.locator(".gm-table-body table").first.wait_for()
    row = page.locator(".gm-table-body table").nth(1).locator("tbody tr").first.locator("td")
    assert row.all_inner_texts() == ["–", *["not trained"] * 4]


def test_a_run_without_gates_says_so(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "ungated", config=RunConfig(edits=EditConfig(gates="none")))
    values = {name: np.full_like(field, 1.0) for name, field in gate_values(0, 40, 6, 4).items()}
    with recorder.run.gate_writer("heads", 6, 4) as writer:
        writer.append(0, values)
    recorder.finish()
    page = open_page(app, "ungated")
    shown(page, run="ungated", step=0)
    assert "This run has no gates" in page.inner_text(".rv-meaning")
    assert page.inner_text(".rv-count-both") == "24"
    page.mouse.move(*cell(page, "offset", 1, 1))
    page.wait_for_selector(".gm-tip:not([hidden])")
    assert page.inner_text(".gm-tip").splitlines()[1] == "offset always on, it has no gate; norm 1"
    assert "gates closed" not in page.inner_text(".rv-result").lower()


def test_figures_code_and_files_of_a_run(app: App, open_page: OpenPage) -> None:
    config = RunConfig(training=TrainingConfig(epochs=3))
    run = record(app, "taking", config=config).until(40).finish()
    page = open_page(app, "taking")
    shown(page, run="taking", step=40)
    page.click("[data-panel=rv-course]")
    # Both rows exist before the first step has arrived.
    page.wait_for_selector(".rv-course-table thead th:nth-child(2)", state="attached")
    first, *_, last = page.evaluate(
        "() => [...document.querySelectorAll('.rv-course-table thead th')].map(c => c.textContent)"
    )[1:]
    assert (first, last) == ("0", "40")
    expected = 1 - gate_values(40, 40, 6, 4)["offset_open"].mean()
    shown_mean = page.evaluate("() => document.querySelector('.rv-course-table tbody tr td:last-child').textContent")
    assert float(shown_mean) == pytest.approx(expected, abs=0.01)
    page.click("[data-panel=rv-code]")
    page.wait_for_selector(".rv-code-shell:not(:empty)")
    assert page.inner_text(".rv-code-shell") == "jola train --epochs 3"
    assert "'epochs': 3" in page.inner_text(".rv-code-python")

    with page.expect_download() as download:
        page.click("[data-take=gates]")
    lines = Path(download.value.path()).read_text().splitlines()
    assert download.value.suggested_filename == "taking-heads-gates.csv"
    assert len(lines) == 1 + 41 * 24 and lines[0].startswith("run,site,step,layer,unit,offset_gate")
    with page.expect_download() as download:
        page.click("[data-take=metrics]")
    assert len(Path(download.value.path()).read_text().splitlines()) == 1 + len(run.metrics())
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('not allowed')); }")
    with page.expect_download() as download:
        page.click("[data-take=picture]")
    assert download.value.suggested_filename == "taking-step-40.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def put_in_line(app: App, name: str, count: int) -> tuple[Waiting, list[Run]]:
    """Record runs and put them into the queue, name-0 first."""
    runs = [record(app, f"{name}-{number}").run for number in range(count)]
    line = Waiting(RunStore(app.runs))
    for run in runs:
        with Turns(line.store.root).locked():
            line.add(run)
    return line, runs


def test_the_queue_is_shown_and_its_runs_are_opened(app: App, open_page: OpenPage) -> None:
    line, runs = put_in_line(app, "waits", 2)
    page = open_page(app, "waits-1")
    shown(page, run="waits-1", state="queued")
    assert page.inner_text(".rv-message") == "Waiting for its turn: 2. in line"
    assert page.locator(".rv-queue-list li").count() == 2
    page.click(".rv-queue-list li:first-child button")
    shown(page, run="waits-0", state="queued")
    page.wait_for_url(re.compile(r"run=waits-0"))
    page.click("#cancel")
    shown(page, run="waits-0", state="cancelled")
    page.wait_for_function("() => document.querySelectorAll('.rv-queue-list li').length === 1")
    page.click(".rv-queue-list .rv-unqueue")
    page.wait_for_selector(".rv-queue", state="hidden")
    assert RunStore(app.runs).get("waits-1").state == "cancelled"
    shown(page, run="waits-0")
    with Turns(line.store.root).locked():
        line.take("waits-1")
    runs[1].write_status(state="cancelled")


def test_buttons_of_the_queue_that_are_pressed_at_once_all_count(app: App, open_page: OpenPage) -> None:
    put_in_line(app, "leaves", 3)
    page = open_page(app, "leaves-2")
    shown(page, run="leaves-2", state="queued")
    page.wait_for_function("() => document.querySelectorAll('.rv-unqueue').length === 3")
    page.evaluate("() => document.querySelectorAll('.rv-unqueue').forEach((button) => button.click())")
    page.wait_for_selector(".rv-queue", state="hidden")
    assert [RunStore(app.runs).get(f"leaves-{number}").state for number in range(3)] == ["cancelled"] * 3


def test_the_run_chosen_before_the_answer_to_a_button_stays(app: App, open_page: OpenPage) -> None:
    put_in_line(app, "left", 1)
    record(app, "chosen-meanwhile").until(7).finish("cancelled")
    page = open_page(app, "left-0")
    shown(page, run="left-0", state="queued")
    held: list[Any] = []
    page.route("**/queue/join*", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/queue/join*"):
        page.click("#cancel")
    page.focus("#run-picker input")
    page.keyboard.press("ArrowUp")  # the list is newest first
    page.keyboard.press("Enter")
    shown(page, run="chosen-meanwhile", step=7)
    held[0].continue_()
    expect(page.locator("#start-message")).to_contain_text("removed from the queue")
    assert RunStore(app.runs).get("left-0").state == "cancelled"
    shown(page, run="chosen-meanwhile")


def test_the_site_chosen_while_news_of_another_arrive_is_shown(app: App, open_page: OpenPage) -> None:
    recorder = record(app, "two-sites").until(3)
    with recorder.run.gate_writer("mlp", 6, 1) as writer:
        for step in range(4):
            writer.append(step, gate_values(step, 40, 6, 1))
    recorder.finish()
    page = open_page(app, "two-sites")
    shown(page, run="two-sites", state="finished", step=3)
    held: list[Any] = []

    def hold_news(route: Any) -> None:
        response = route.fetch(timeout=PATIENCE)
        if "snapshot" in response.text() and not held:
            held.append((route, response))
        else:
            route.fulfill(response=response)

    page.route("**/component_server**", hold_news)
    page.wait_for_timeout(100)
    wait_for(
        page, lambda: held or recorder.run.write_status(warning=f"At {time.time()}.") or page.wait_for_timeout(3000)
    )
    page.get_by_role("button", name="MLP outputs").click()
    route, response = held[0]
    route.fulfill(response=response)
    page.wait_for_function("document.querySelector('#run-view .rv').parentElement.gateMap.frame.site === 'mlp'")


def test_examples_and_cost_before_the_start(app: App, open_page: OpenPage, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    rows = [{"prompt": f"Film {n}: {HOSTILE}?", "completion": "bad"} for n in range(30)]
    file.write_text("\n".join(map(json.dumps, rows)))
    page = open_page(app)
    for name, value in (("model", tiny_folder), ("task", file)):
        page.fill(f"#setting-{name} input", str(value))
        page.keyboard.press("Enter")
    summary = re.compile(r"^\d+ steps, time known after the first steps, up to \d+ MB of memory$")
    expect(page.locator("#cost summary")).to_have_text(summary, use_inner_text=True)
    page.click("#preview-open")
    page.wait_for_selector(".pv-list li >> nth=9")
    assert HOSTILE in page.inner_text(".pv-list")
    marked = page.eval_on_selector(
        ".pv-loss.pv-token", "node => [getComputedStyle(node).fontWeight, getComputedStyle(node).textDecorationLine]"
    )
    assert marked == ["700", "underline"]
    page.click("#preview-close")
    page.wait_for_selector(".pv-list", state="hidden")


def test_a_large_map_stays_readable_and_tells_what_an_update_costs(app: App, open_page: OpenPage) -> None:
    record(app, "large", layers=80, units=64).until(5)
    page = open_page(app, "large")
    shown(page, run="large", step=5)
    first = gate_values(5, 40, 80, 64)["scale_gate"]
    closed = np.argwhere(first == 0)[0]
    for shows in ("state", "norm", "open", "gate"):
        choose_colour(page, shows)
        took = page.evaluate("() => document.querySelector('#run-view .rv').parentElement.measureUpdate()")
        assert took > 0
    assert colour(page, "scale", *map(int, closed)) == [0, 34, 78]
    page.mouse.move(*cell(page, "scale", 79, 63))
    page.wait_for_function("() => document.querySelector('.gm-readout').textContent.startsWith('Layer 79, head 63')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(app: App, open_page: OpenPage, scheme: str) -> None:
    record(app, f"scheme-{scheme}").until(5)
    page = open_page(app, f"scheme-{scheme}", color_scheme=scheme)
    shown(page, run=f"scheme-{scheme}", step=5)
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    assert gate_map(page, "map.theme.surface") == {"light": "#ffffff", "dark": "#0f1318"}[scheme]


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (700, 900)])
def test_nothing_is_wider_than_the_window(app: App, open_page: OpenPage, width: int, height: int) -> None:
    record(app, f"width-{width}").until(5).finish()
    page = open_page(app, f"width-{width}", viewport={"width": width, "height": height})
    shown(page, run=f"width-{width}", step=5)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".gm-canvas").is_visible()


def test_a_failed_run_shows_its_sentence_and_its_log(app: App, open_page: OpenPage) -> None:
    run = record(app, "failed").until(3).finish("failed")
    run.write_status(message=f"There is no file {HOSTILE}.")
    run.log_path.write_text(f"Loading\n{HOSTILE}\n")
    page = open_page(app, "failed")
    shown(page, run="failed", state="failed")
    assert page.inner_text(".rv-message") == f"Failed: There is no file {HOSTILE}."
    assert HOSTILE in page.inner_text(".rv-log pre")  # unfolded already
    page.click(".rv-log summary")
    run.log_path.write_text(f"Loading\n{HOSTILE}\nMore\n")
    run.write_status(message="Another sentence.")
    page.wait_for_function("() => document.querySelector('.rv-message').textContent === 'Failed: Another sentence.'")
    assert not page.locator(".rv-log pre").is_visible()


def test_start_with_a_value_that_cannot_be_used(app: App, open_page: OpenPage) -> None:
    before = [run.id for run in RunStore(app.runs).list()]
    page = open_page(app)
    page.fill("#setting-epochs input", "0")
    page.keyboard.press("Tab")
    page.click("#start")
    page.wait_for_selector("#start-message [role=alert]")
    assert page.inner_text("#start-message") == "Epochs is 0; it must be at least 1."
    assert page.locator("#start").is_visible()
    assert [run.id for run in RunStore(app.runs).list()] == before


def test_upload_of_a_broken_file_and_of_a_good_one(app: App, open_page: OpenPage) -> None:
    page = open_page(app)
    good = {"prompt": "Good or bad?", "completion": "good"}
    broken = (json.dumps(good) + '\n{"prompt": \n').encode()
    chooser = page.locator("input[type=file]")
    chooser.set_input_files([{"name": "broken.jsonl", "mimeType": "text/plain", "buffer": broken}])
    page.wait_for_selector("#upload-message [role=alert]")
    assert page.inner_text("#upload-message").startswith("Line 2 of broken.jsonl is not valid JSON")
    assert page.input_value("#setting-task input") == "Movie-review sentiment"
    rows = "\n".join([json.dumps(good)] * 3).encode()
    chooser.set_input_files([{"name": "good.jsonl", "mimeType": "text/plain", "buffer": rows}])
    page.wait_for_selector("#upload-message [role=status]")
    assert page.inner_text("#upload-message") == "good.jsonl: 3 examples."
    expect(page.locator("#setting-task input")).to_have_value(re.compile(r"good\.jsonl$"))
