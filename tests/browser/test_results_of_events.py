"""The results of events reach the page, in whatever order the server's answers arrive."""

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from jola.edits.masks.head_mask import HeadMask
from jola.edits.masks.saved import SavedMasks
from jola.runs.run import Run
from tests.browser.conftest import App, OpenPage, opened, ready
from tests.workbench.edited import edited_run
from workbench.service.page_state import edits_of

_HOLD_BACK = """
const fetchNow = window.fetch.bind(window);
window.streams = 0;
window.fetch = async (resource, options) => {
  const response = await fetchNow(resource, options);
  if (!response.url.includes("/queue/data")) return response;
  const { held } = window, content = response.clone().blob();
  window.held = null;
  window.streams += 1;
  const ended = content.catch(() => {}).then(() => { window.streams -= 1; });
  if (!held) return response;
  await ended;
  held.ended = true;
  await held.released;
  return new Response(await content, response);
};
window.hold = () => {
  const held = window.held = window.kept = {};
  held.released = new Promise((release) => { held.release = release; });
};
"""
"""After ``hold()``, the next stream of results arrives in one piece, after its end and ``kept.release()``."""


def open_with(script: str, app: App, open_page: OpenPage, run: Run) -> Any:
    """Open a run in the Playground of a page that runs ``script`` first."""
    page = open_page(app, f"{run.id}&tab=playground&prompt=A fine film")
    page.context.add_init_script(script)
    page.reload()
    ready(page)
    page.wait_for_selector("#answer-shares table")
    opened(page)
    return page


def test_an_event_between_the_last_result_and_the_end_of_the_stream(
    app: App, open_page: OpenPage, tiny_folder: Path
) -> None:
    run = edited_run(app.runs / "between-result-and-end", tiny_folder)
    page = open_with(_HOLD_BACK, app, open_page, run)
    page.fill("#mask-name input, #mask-name textarea", "nothing on")
    page.wait_for_function("streams === 0")  # an event in an open stream would open none that could be held back
    page.evaluate("() => hold()")
    page.click("#mask-none")
    page.wait_for_function("kept.ended")
    with page.expect_response(lambda response: "/queue/join" in response.url):
        page.click("#mask-save")
    opened(page)
    page.evaluate("() => kept.release()")
    expect(page.locator("#playground-message .jw-good")).to_contain_text("Saved as “nothing on”.")


_HOLD_JOIN = """
const fetchNow = window.fetch.bind(window);
window.fetch = async (resource, options) => {
  const { held } = window, response = await fetchNow(resource, options);
  if (held && response.url.includes("/queue/join")) {
    held.joined = true;
    await held.released;
  }
  return response;
};
window.hold = () => {
  const held = window.held = window.kept = {};
  held.released = new Promise((release) => { held.release = release; });
};
"""
"""The page learns that events between ``hold()`` and ``held = null`` have begun only after ``kept.release()``."""


def test_results_that_arrive_at_once_are_all_shown(app: App, open_page: OpenPage, tiny_folder: Path) -> None:
    run = edited_run(app.runs / "results-at-once", tiny_folder)
    other = edited_run(app.runs / "results-at-once-other", tiny_folder, seed=2)
    other.annotate(label="The other run")
    SavedMasks(other.path, "heads").save("of the other", HeadMask.for_edits(edits_of(other)["heads"]))
    page = open_with(_HOLD_JOIN, app, open_page, run)
    page.evaluate("() => hold()")
    page.click("#playground-run input")
    page.get_by_role("option", name="The other run").click()
    page.wait_for_function("kept.joined")
    opened(page)  # a choice from a list can be two events
    page.wait_for_timeout(2000)  # so that the app has opened the run, whose mask has all edits on
    page.evaluate("() => { held = null; }")
    page.click("#mask-none")  # opens a stream, which has the results of all events
    expect(page.locator("#tokens .jw-foot")).to_contain_text("0.000 nats")
    page.evaluate("() => kept.release()")
    page.click("#saved-masks input")
    page.get_by_role("option", name="of the other").click()
