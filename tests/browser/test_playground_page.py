"""The Playground in a real browser: toggle edits and see the answer change; undo, share, measure, open a head."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from jola.data.records import Example, Message
from jola.data.tasks import load_task
from jola.runs.answers import TestAnswer
from jola.runs.run import Run
from tests.browser.conftest import PATIENCE, App, OpenPage, opened, press_until, ready
from tests.tiny import make_model, make_tokenizer
from tests.workbench.edited import edited_run
from tests.workbench.served import write_task
from workbench.service.page_state import edits_of


@pytest.fixture
def run(app: App, tiny_folder: Path, request: pytest.FixtureRequest) -> Run:
    """A finished run of a tiny model, in the app that all tests share."""
    name = re.sub(r"\W", "-", request.node.name)
    return edited_run(app.runs / name, tiny_folder)


@pytest.fixture
def open_playground(app: App, open_page: OpenPage) -> Callable[..., Any]:
    def make(run: Run, more: str = "", **options: Any) -> Any:
        page = open_page(app, f"{run.id}&tab=playground&prompt=A fine film{more}", **options)
        page.wait_for_selector("#tokens table")
        page.wait_for_selector("#answer-shares table")
        # A late answer on a busy machine is not a lost one.
        page.evaluate(f"document.querySelector('#edit-map .em').parentElement.editMap.patience = {PATIENCE}")
        return page

    return make


def open_cells(run: Run, half: str = "offset") -> list[list[int]]:
    return (edits_of(run)["heads"].gate_values()[half] > 0).nonzero().tolist()


def click_cell(page: Any, half: str, cell: list[int], **options: Any) -> None:
    place = page.evaluate(
        "([half, layer, unit]) => "
        "document.querySelector('#edit-map .em').parentElement.editMap.position(half, layer, unit)",
        [half, *cell],
    )
    page.mouse.click(*place, **options)


def table(page: Any) -> str:
    return str(page.inner_text("#tokens .jw-picture"))


def changed(page: Any, before: str) -> str:
    """Wait until the table of next tokens has changed, and return it."""
    page.wait_for_function("(before) => document.querySelector('#tokens .jw-picture').innerText !== before", arg=before)
    return table(page)


def settled(page: Any) -> None:
    """Wait until the server has answered every gesture on the map."""
    page.wait_for_selector("#edit-map .em[data-pending='0']")


def test_a_click_on_the_map_changes_the_next_token_and_undo_brings_it_back(
    run: Run, open_playground: Callable[..., Any]
) -> None:
    page = open_playground(run)
    before = table(page)
    click_cell(page, "offset", open_cells(run)[0])
    after = changed(page, before)
    assert "nats" in page.inner_text("#tokens .jw-since")
    assert "edits are on" in page.inner_text("#mask-summary") or "off" in page.inner_text("#mask-summary")
    page.click("#mask-undo")
    assert changed(page, after) == before
    page.click("#mask-redo")
    assert changed(page, before) == after


def test_with_all_edits_off_base_and_edited_are_the_same(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    page.click("#mask-none")
    changed(page, before)
    assert "0.000 nats" in page.inner_text("#tokens .jw-foot")
    for row in page.locator("#tokens tbody tr").all():
        assert row.locator("td").nth(0).inner_text() == row.locator("td").nth(1).inner_text()


def test_quick_clicks_all_count(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    cells = open_cells(run)[:4]
    for cell in cells:
        click_cell(page, "offset", cell)
    settled(page)
    page.wait_for_function(
        "(count) => document.querySelector('#mask-summary').innerText.includes(String(count))",
        arg=len(open_cells(run)) + len(open_cells(run, "scale")) - len(cells),
    )


HOLD_AN_ANSWER = """() => {
  const real = window.fetch;
  window.fetch = async (...request) => {
    const answer = await real(...request);
    if (String(request[0]).includes("queue/join") && !window.release) {
      await new Promise((go) => { window.release = go; });
    }
    return answer;
  };
  window.summaries = [];
  new MutationObserver(() => window.summaries.push(document.querySelector("#mask-summary").innerText))
    .observe(document.querySelector("#mask-summary"), { subtree: true, childList: true, characterData: true });
}"""
"""Hold the answers to the next event until `window.release` is called, and record what the page says about the mask."""


def test_the_answer_to_an_earlier_click_does_not_stay_on_the_page(
    run: Run, open_playground: Callable[..., Any]
) -> None:
    page = open_playground(run)
    before = table(page)
    page.evaluate(HOLD_AN_ANSWER)
    one, other = open_cells(run)[:2]
    click_cell(page, "offset", one)
    page.wait_for_function("() => window.release")
    page.wait_for_timeout(2000)  # so that the app has switched it off before the next click
    click_cell(page, "offset", other)
    expect(page.locator("#mask-summary")).to_contain_text("2 offsets are off")
    after, address = changed(page, before), page.url
    page.evaluate("() => window.release()")
    page.wait_for_function("() => window.summaries.some((text) => text.includes('1 offset is off'))")
    expect(page.locator("#mask-summary")).to_contain_text("2 offsets are off")
    expect(page.locator("#tokens .jw-picture")).to_have_text(after, use_inner_text=True)
    expect(page).to_have_url(address)


def test_a_list_that_is_left_without_a_choice_changes_nothing(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    page.fill("#mask-name input, #mask-name textarea", "all on")
    page.click("#mask-save")
    page.wait_for_selector("#playground-message .jw-good")
    click_cell(page, "offset", open_cells(run)[0])
    after, words = changed(page, before), page.inner_text("#mask-summary")
    for box in ("#playground-run input", "#saved-masks input"):
        page.click(box)
        page.wait_for_selector("[role=option]")
        page.keyboard.press("Tab")
        expect(page.locator("[role=option]")).to_have_count(0)
    page.click("#mask-undo")
    assert changed(page, after) == before
    page.click("#mask-redo")
    assert changed(page, before) == after
    assert page.inner_text("#mask-summary") == words


def test_lists_work_with_the_keyboard_and_other_runs_stay(
    run: Run, app: App, tiny_folder: Path, open_playground: Callable[..., Any]
) -> None:
    second = edited_run(app.runs / f"{run.id}-second", tiny_folder, seed=2)
    second.annotate(label="The second")
    edited_run(app.runs / f"{run.id}-third", tiny_folder, seed=3).annotate(label="The third")
    page = open_playground(run)
    page.get_by_role("button", name="Compare or combine with other runs").click()
    opened(page)
    page.click("#other-runs input")
    page.get_by_role("option", name="The third").click()
    page.wait_for_function("document.querySelectorAll('#tokens thead th').length === 5")
    before = table(page)
    page.click("#playground-run input")
    page.wait_for_selector("[role=option]")
    box, active = page.locator("#playground-run input"), page.locator("#playground-run [role=option].active")
    while "The second" not in active.inner_text():
        last = box.get_attribute("aria-activedescendant")
        page.keyboard.press("ArrowUp")
        expect(box).not_to_have_attribute("aria-activedescendant", last)
    page.keyboard.press("Enter")
    changed(page, before)
    assert page.locator("#tokens thead th").count() == 5
    assert "The third" in page.inner_text("#other-runs")


def test_the_address_keeps_the_mask_over_a_reload(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before, summary_before = table(page), page.inner_text("#mask-summary")
    click_cell(page, "offset", open_cells(run)[0])
    after = changed(page, before)
    page.wait_for_url(re.compile("mask="))
    expect(page.locator("#mask-summary")).not_to_have_text(summary_before, use_inner_text=True)
    summary = page.inner_text("#mask-summary")
    page.reload()
    ready(page)
    page.wait_for_selector("#tokens table")
    page.wait_for_function("(after) => document.querySelector('#tokens .jw-picture').innerText === after", arg=after)
    expect(page.locator("#mask-summary")).to_have_text(summary, use_inner_text=True)


def test_the_address_opens_the_visible_tab(run: Run, app: App, open_page: OpenPage) -> None:
    page = open_page(app, run.id)
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_url(re.compile("tab=playground"))
    page.wait_for_selector("#tokens table")
    click_cell(page, "offset", open_cells(run)[0])
    page.wait_for_url(re.compile("mask="))
    # Not a reload, which can interrupt an answer of the server; the page then reports an error.
    again = open_page(app, query=urlsplit(page.url).query)
    expect(again.locator("#mask-summary")).to_contain_text("1 offset is off")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_url(re.compile(r"^(?!.*mask=).*tab=runs"))
    again = open_page(app, query=urlsplit(page.url).query)
    expect(again.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_url(re.compile("tab=playground"))
    page.get_by_role("tab", name="Train").click()
    page.wait_for_url(re.compile(rf"run={run.id}$"))


def test_a_mask_in_the_address_is_that_of_the_run_in_it(
    run: Run, app: App, tiny_folder: Path, open_playground: Callable[..., Any]
) -> None:
    second = edited_run(app.runs / f"{run.id}-second", tiny_folder, seed=2)
    second.annotate(label="Of the address")
    page = open_playground(run)
    before = table(page)
    page.click("#playground-run input")
    page.get_by_role("option", name="Of the address").click()
    first = changed(page, before)
    click_cell(page, "offset", open_cells(second)[0])
    after = changed(page, first)
    page.wait_for_url(re.compile("mask="))
    page.reload()
    ready(page)
    page.wait_for_function("(after) => document.querySelector('#tokens .jw-picture')?.innerText === after", arg=after)
    expect(page.locator("#playground-run input")).to_have_value(re.compile("Of the address"))
    page.get_by_role("tab", name="Train").click()
    page.click("#run-picker input")
    page.get_by_role("option").nth(1).click()
    page.wait_for_url(re.compile(r"^(?!.*mask=)"))


def test_results_go_with_their_run(run: Run, app: App, tiny_folder: Path, open_playground: Callable[..., Any]) -> None:
    edited_run(app.runs / f"{run.id}-second", tiny_folder, seed=2).annotate(label="Without results")
    page = open_playground(run)
    before, cell = table(page), open_cells(run)[0]
    page.click("#answer")
    page.wait_for_function("document.querySelectorAll('#answers .jw-answer:not(.jw-empty)').length === 2")
    page.get_by_role("tab", name="Effects").click()
    opened(page)
    page.fill("#effect-answer input, #effect-answer textarea", "good")
    page.click("#effects")
    page.wait_for_selector("#effects-plot .js-plotly-plot .plot-container")
    page.keyboard.down("Alt")
    click_cell(page, "offset", cell)
    page.keyboard.up("Alt")
    page.wait_for_selector("#history-plot .js-plotly-plot .plot-container")
    page.click("#playground-run input")
    page.get_by_role("option", name="Without results").click()
    expect(page.locator("#head-title")).to_contain_text("to open its card")
    page.wait_for_selector("#history-plot", state="hidden")
    page.get_by_role("tab", name="Effects").click()
    expect(page.locator("#effects-table table")).to_have_count(0)
    page.wait_for_selector("#effects-plot", state="hidden")
    page.wait_for_selector("#effects-tools .vt", state="hidden")
    page.get_by_role("tab", name="Answers").click()
    expect(page.locator("#answers .jw-answer:not(.jw-empty)")).to_have_count(0)
    page.get_by_role("tab", name="Next token").click()
    changed(page, before)


def test_the_sliders_of_a_card_follow_the_map(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    scales = open_cells(run, "scale")
    cell = next(cell for cell in open_cells(run) if cell in scales)
    page.keyboard.down("Alt")
    click_cell(page, "offset", cell)
    page.keyboard.up("Alt")
    offset, scale = (page.locator(f"#head-{half} input[type=number]") for half in ("offset", "scale"))
    expect(offset).to_have_value("1")
    click_cell(page, "offset", cell)
    expect(offset).to_have_value("0")
    scale.fill("0.5")
    scale.blur()
    expect(page.locator("#mask-summary")).to_contain_text("1 at another strength")
    settled(page)
    expect(page.locator("#mask-summary")).to_contain_text("1 offset is off")
    expect(offset).to_have_value("0")
    page.click("#mask-all")
    expect(offset).to_have_value("1")
    expect(scale).to_have_value("1")


def test_a_link_that_cannot_be_copied_is_shown(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("#mask-link")
    expect(page.locator("#playground-message")).to_contain_text(f"run={run.id}&tab=playground")
    expect(page.locator("#playground-message")).to_contain_text("does not allow copying")


def test_a_mask_is_saved_with_the_run_and_chosen_again(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    page.click("#mask-none")
    off = changed(page, before)
    page.fill("#mask-name input, #mask-name textarea", "nothing <b>on</b>")
    page.click("#mask-save")
    expect(page.locator("#playground-message .jw-good")).to_contain_text("nothing <b>on</b>")
    expect(page.locator("#saved-masks input")).to_have_value("nothing <b>on</b>")
    page.click("#mask-all")
    assert changed(page, off) == before
    page.click("#saved-masks input")
    page.get_by_role("option", name="nothing <b>on</b>").click()
    assert changed(page, before) == off


def test_the_next_token_follows_every_change_of_the_prompt(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    at_first = table(page)
    page.focus("#prompt textarea")
    page.keyboard.insert_text(" about small things")  # as if pasted: without a key
    longer = changed(page, at_first)
    page.keyboard.press("Backspace")
    shorter = changed(page, longer)
    page.keyboard.type("s")
    assert changed(page, shorter) == longer
    page.fill("#prompt textarea", "A fine film")
    assert changed(page, longer) == at_first


def test_strength_goes_from_reversed_to_double(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    page.fill("#strength input[type=number]", "0")
    page.keyboard.press("Tab")
    off = changed(page, before)
    assert "0.000 nats" in off
    page.fill("#strength input[type=number]", "-1")
    page.keyboard.press("Tab")
    assert "0.000 nats" not in changed(page, off)


def test_the_map_works_with_the_keyboard_alone(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    page.focus("#edit-map .gm-canvas")
    layer, unit = open_cells(run)[0]
    for key, count in (("ArrowDown", layer), ("ArrowRight", unit)):
        for _ in range(count):
            page.keyboard.press(key)
    page.keyboard.press("Space")
    after = changed(page, before)
    page.keyboard.press("Control+z")
    assert changed(page, after) == before


def test_the_table_of_edits_does_what_the_map_does(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    before = table(page)
    # Uses the keyboard, because a click is lost if the page moves between press and release of the button, and the
    # element itself, because the page could move the focus before the key is pressed.
    page.locator("#edit-map summary").press("Enter")
    page.locator("#edit-map input[type=checkbox]").first.press("Space")
    changed(page, before)


def test_both_answers_are_written_and_can_be_stopped(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    page.click("#answer")
    page.wait_for_function(
        "() => { const answers = [...document.querySelectorAll('#answers .jw-answer')]; return answers.length === 2 && "
        "answers.every(a => a.getAttribute('aria-busy') === 'false' && !a.matches('.jw-empty')); }"
    )
    page.wait_for_selector("#answer")
    assert page.locator("#answers section").count() == 2


def test_a_head_opens_its_card_with_history_tokens_and_attention(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    layer, unit = open_cells(run)[0]
    page.keyboard.down("Alt")
    click_cell(page, "offset", [layer, unit])
    page.keyboard.up("Alt")
    page.wait_for_selector("#head-title .jw-card-title")
    assert page.inner_text(".jw-card-title") == f"Layer {layer}, head {unit}"
    page.wait_for_selector("#promoted li")
    page.wait_for_selector("#history-plot .js-plotly-plot .plot-container")
    page.wait_for_selector("#attention-plot .js-plotly-plot .plot-container")


def test_effects_are_measured_shown_and_put_on_the_map(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    page.get_by_role("tab", name="Effects").click()
    opened(page)
    page.fill("#effect-answer input, #effect-answer textarea", "good")
    page.click("#effects")
    page.wait_for_selector("#effects-table table")
    page.wait_for_selector("#effects-plot .js-plotly-plot .plot-container")
    expect(page.locator("#effects-words")).to_contain_text("one by one would take")
    page.get_by_label("Logit difference").check()
    page.fill("#effect-wrong input, #effect-wrong textarea", "bad")
    press_until(page, "#effects", "#effects-table table[data-measure=logit_difference]")
    assert "“good” against “bad”".upper() in page.inner_text("#effects-table caption").upper()
    page.click("#direct")
    page.wait_for_selector("#direct-plot .js-plotly-plot .plot-container")
    page.locator("#edit-map .em-effect").click()
    page.wait_for_selector("#edit-map .em[data-meaning=effect]")


def test_a_text_is_scored_and_the_layers_are_looked_through(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    page.get_by_role("tab", name="Text", exact=True).click()
    opened(page)
    page.fill("#scored-text textarea", "A fine film about small things")
    page.click("#score")
    page.wait_for_selector("#text-strip .jw-strip")
    page.wait_for_selector("#text-plot .js-plotly-plot .plot-container")
    page.get_by_role("tab", name="Layers").click()
    page.click("#lens")
    page.wait_for_selector("#lens-plot .js-plotly-plot .plot-container")


def test_numbers_code_and_picture_can_be_taken(run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    with page.expect_download() as download:
        page.click("#tokens-tools .vt-csv")
    rows = Path(download.value.path()).read_text().splitlines()
    assert rows[0] == "token,base,Edited" and len(rows) == 11
    page.click("#tokens-tools .vt-show")
    assert "insight.next_tokens(model, prompt, mask=mask)" in page.inner_text("#tokens-tools pre")
    with page.expect_download() as download:
        page.click("#tokens-tools .vt-picture")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_two_runs_answer_side_by_side(
    run: Run, app: App, tiny_folder: Path, open_playground: Callable[..., Any]
) -> None:
    edited_run(app.runs / f"{run.id}-second", tiny_folder, seed=2)
    page = open_playground(run)
    before = table(page)
    page.get_by_role("button", name="Compare or combine with other runs").click()
    page.click("#other-runs input")
    page.get_by_role("option").first.click()
    changed(page, before)
    assert page.locator("#tokens thead th").count() == 5
    assert page.locator("#tokens .jw-likeliest").count() == 2
    page.click("#answer")
    page.wait_for_selector("#answer")
    page.wait_for_function("document.querySelectorAll('#answers .jw-answer:not(.jw-empty)').length === 3")


def test_runs_of_different_models_are_not_compared(
    run: Run, app: App, tmp_path: Path, open_playground: Callable[..., Any]
) -> None:
    make_model("gpt2").save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    edited_run(app.runs / f"{run.id}-other", tmp_path / "other").annotate(label="Another model")
    page = open_playground(run)
    page.get_by_role("button", name="Compare or combine with other runs").click()
    page.click("#other-runs input")
    page.get_by_role("option", name="Another model").click()
    page.wait_for_selector("#playground-message .jw-error:has-text('choose runs of the same base model')")


def test_a_test_answer_of_a_run_opens_in_the_playground(run: Run, app: App, open_page: OpenPage) -> None:
    """From the table of runs to the confusion matrix, one of its cells, an example, and its next token."""
    tag = "<img src=x onerror=alert(1)>"
    turns = (Message("user", f"Good or bad? {tag}"),)
    examples = [Example(turns, expected, (), ("bad", "good")) for expected in ("good", "bad", "bad")]
    said = [("good", "bad"), ("good", "bad"), (tag, "bad")]
    run.write_answers([TestAnswer(str(n), e, *texts) for n, (e, texts) in enumerate(zip(examples, said, strict=True))])
    page = open_page(app, f"{run.id}&tab=runs")
    page.click(f".rt tbody tr[data-id={run.id}]")
    page.click(".rt-answers")
    page.wait_for_selector("#answers-examples .et-table tbody tr:nth-child(3)")
    assert page.locator("#answers-examples .et-table img").count() == 0
    page.get_by_label("Gained by the edits").press("Space")
    page.wait_for_selector("#answers-examples .et-table caption:has-text('1–1 of 1')")
    page.click("#answers-examples [data-row='0'][data-column='1']")
    page.wait_for_selector("#answers-examples .et-table caption:has-text('Expected bad, answered good')")
    page.click("#answers-examples tr[data-number='1'] td:nth-child(3)")
    page.wait_for_selector("#right-answer :text('Right answer: bad')")
    page.wait_for_selector("#tokens table")
    expect(page.locator("#prompt textarea")).to_have_value(f"Good or bad? {tag}")
    expect(page.locator("#given-answers textarea")).to_have_value("bad\ngood")


def test_edits_are_tested_on_the_test_examples(
    app: App, tiny_folder: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    """Without edits, all answers are those of the base model; choosing an example that flips fills the prompt."""
    run = edited_run(app.runs / "tested", tiny_folder, task=str(write_task(tmp_path / "task")))
    examples = load_task(run.run_config().data, 42).test
    run.write_answers([TestAnswer(example.id, example, example.completion) for example in examples])
    page = open_page(app, f"{run.id}&tab=playground&prompt=A fine film")
    page.wait_for_selector("#tokens table")
    before = table(page)
    page.click("#mask-none")
    changed(page, before)
    page.get_by_role("tab", name="Test", exact=True).click()
    page.click("#mask-test")
    page.wait_for_selector("#mask-test-words table")
    base, edited, chosen = page.locator("#mask-test-words tbody tr").all_inner_texts()
    assert "100.0 %" in edited and f"n = {len(examples)}" in edited
    assert base.partition("\t")[2] == chosen.partition("\t")[2]
    flipped = page.locator("#mask-test-flips tbody tr")
    flipped.first.wait_for()
    number = int(flipped.first.get_attribute("data-number"))
    flipped.first.locator("button").click()
    page.wait_for_selector(f"#right-answer :text('Right answer: {examples[number].completion}')")
    expect(page.locator("#prompt textarea")).to_have_value(examples[number].prompt[-1].content)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_in_a_small_window(run: Run, open_playground: Callable[..., Any], scheme: str) -> None:
    page = open_playground(run, viewport={"width": 1024, "height": 768}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")


def test_a_link_with_a_mask_of_another_model_says_so(run: Run, app: App, open_page: OpenPage) -> None:
    page = open_page(app, f"{run.id}&tab=playground&mask=heads:AAAA")
    page.wait_for_selector("#playground-message .jw-error")


@pytest.mark.default_model
def test_the_first_minute_of_a_newcomer(default_assets: Path, new_app: App, open_page: OpenPage) -> None:
    """Open the app, find the sample run, switch an edit off, see the next tokens without it, read an answer."""
    page = open_page(new_app)
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_selector("#answer-shares table")
    assert "Sample" in page.input_value("#playground-run input")
    assert "movie review" in page.input_value("#prompt textarea")
    sample = Run.open(new_app.runs / "sample")
    assert page.get_attribute("#tokens .jw-picture", "data-masks") == ""
    click_cell(page, "offset", open_cells(sample)[0])
    # One edit may change less than the digits of the table show; the line above it still shows the change.
    page.wait_for_selector("#tokens .jw-picture[data-masks^='heads:']")
    assert "Since the last change: ln p(" in page.inner_text("#tokens .jw-since")
    page.click("#answer")
    page.wait_for_function(
        "() => { const answers = [...document.querySelectorAll('#answers .jw-answer')]; return answers.length === 2 && "
        "answers.every(a => a.getAttribute('aria-busy') === 'false' && !a.matches('.jw-empty')); }"
    )
    assert page.locator("#answers .jw-answer").nth(1).inner_text().strip() in ("positive", "negative")


def test_an_adapter_is_taken_from_a_folder(app: App, run: Run, open_playground: Callable[..., Any]) -> None:
    page = open_playground(run)
    page.get_by_role("button", name="Import an adapter").click()
    opened(page)
    page.fill("#import-folder input, #import-folder textarea", str(run.path / "nowhere"))
    page.click("#import-take")
    page.wait_for_selector("#import-message .jw-error")
    assert "There is no file or folder" in page.inner_text("#import-message")
    assert page.locator("#edit-map .em").count() == 1

    before = {path.name for path in app.runs.iterdir()}
    page.fill("#import-folder input, #import-folder textarea", str(run.adapter_dir))
    press_until(page, "#import-take", "#import-message .jw-good")
    (new,) = {path.name for path in app.runs.iterdir()} - before
    taken = Run.open(app.runs / new)
    assert open_cells(taken) == open_cells(run)
    page.wait_for_function("document.querySelector('#tokens .jw-picture') !== null")
    assert re.search(r"edits are on, as trained", page.inner_text("#mask-summary"))
