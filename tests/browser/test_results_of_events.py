"""The results of events reach the page, in whatever order the server's answers arrive."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import App, OpenPage, opened, ready
from tests.workbench.edited import edited_run

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


def test_an_event_between_the_last_result_and_the_end_of_the_stream(
    app: App, open_page: OpenPage, tiny_folder: Path
) -> None:
    run = edited_run(app.runs / "between-result-and-end", tiny_folder)
    page = open_page(app, f"{run.id}&tab=playground&prompt=A fine film")
    page.context.add_init_script(_HOLD_BACK)
    page.reload()
    ready(page)
    page.wait_for_selector("#answer-shares table")
    opened(page)
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
