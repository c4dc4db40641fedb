"""A real app and a real Chromium. A page that reports an error or sends a request outside the app fails its test."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workbench.started import started
from tools.browser import NoBrowser, ensure

sync_api = pytest.importorskip("playwright.sync_api")

FEATURES = [
    # Pages of the address bar: Chromium builds both for each new window, in 0.2 s of CPU time.
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup",
    # What Playwright disables itself: Chromium reads only the last list.
    "AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay", "MediaRouter",
    "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
]  # fmt: skip
"""Features of Chromium that are disabled."""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", f"--disable-features={','.join(FEATURES)}",
]  # fmt: skip
PATIENCE = 180_000
"""Milliseconds that a page may take on a busy machine; only failing tests wait that long."""
sync_api.expect.set_options(timeout=PATIENCE)


WAITING = {
    "test_compare_page.py", "test_killed_app.py", "test_methods_page.py", "test_studies_page.py", "test_training.py",
}  # fmt: skip
"""Files whose tests mostly wait for training runs."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run browser tests in two workers: few browsers and apps start, and one worker waits while the other computes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")
            waits = item.path.name in WAITING
            item.add_marker(pytest.mark.xdist_group("browser, training runs" if waits else "browser"))


@dataclass(frozen=True)
class App:
    """A served app: its address, and the home folder with its runs."""

    address: str
    home: Path
    process: psutil.Process | None = None
    """None if this process serves the page."""

    @property
    def runs(self) -> Path:
        return self.home / "runs"


@contextmanager
def serve(home: Path, *, token: bool = False) -> Iterator[App]:
    """Start the app in a separate process on a free port; with ``token``, its address contains the token."""
    with started(home, home / "tmp", flags=("--token" if token else "--no-token",)) as app:
        yield App(f"{app.address}/?token={app.token}" if token else app.address, home, app.process)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One app for all tests that open their own run by its address."""
    with serve(tmp_path_factory.mktemp("home")) as app:
        yield app


@pytest.fixture
def new_app(home: Path) -> Iterator[App]:
    """An app without runs, only for this test."""
    with serve(home) as app:
        yield app


@pytest.fixture
def default_app(default_assets: Path) -> Iterator[App]:
    """An app with the default model and data in its cache."""
    with serve(default_assets) as app:
        yield app


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    try:
        chromium = ensure()
    except NoBrowser as error:
        pytest.fail(str(error))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """``open_page(app, run="", query="", **context options)`` opens a page in a new context, and waits for it."""
    contexts, faults = [], []

    def report(text: str) -> None:
        # A page that is left while it reads from the server reports this, which is not an error.
        if not re.search(r"AbortError|errored out\. $", text):
            faults.append(f"console: {text}")

    def watch(page: Any, address: str) -> None:
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("console", lambda entry: entry.type == "error" and report(entry.text))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        inside = (address, "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(inside) or faults.append(f"outside: {asked.url}"))

    def make(app: App, run: str = "", query: str = "", **options: Any) -> Any:
        query = query or (f"run={run}" if run else "")
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        watch(page, app.address)
        page.goto(f"{app.address}/?{query}" if query else app.address)
        ready(page)
        return page

    yield make
    for context in contexts:
        for page in context.pages:
            # A handler that is in the middle of a request would fail when the context closes, in the next test.
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    assert faults == []


def ready(page: Any) -> None:
    """Wait until the page has received its first answer from the server."""
    page.wait_for_selector("html[data-ready]", state="attached")


def opened(page: Any) -> None:
    """Wait until a tab or an accordion that is shown for the first time has its initial values.

    Gradio writes them again in the frame after it has built the components, over what was typed meanwhile.
    """
    for _ in range(3):
        page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")


def wait_for(page: Any, done: Callable[[], Any]) -> None:
    """Wait until ``done()`` is true in Python, while the page goes on."""
    end = time.monotonic() + PATIENCE / 1000
    while not done():
        assert time.monotonic() < end, "nothing happened"
        page.wait_for_timeout(20)


def press_until(page: Any, button: str, selector: str) -> None:
    """Press a button until ``selector`` is there: a press is ignored until the previous one has ended completely."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.locator(selector).count():
        assert time.monotonic() < end, f"{selector} did not appear"
        if page.is_visible(button) and page.is_enabled(button):
            page.click(button)
        page.wait_for_timeout(500)


def shown(page: Any, **facts: Any) -> None:
    """Wait until the run view shows ``facts``, as in ``shown(page, run="one", step=12)``, or the run has failed."""
    conditions = "".join(f'[data-{name}="{value}"]' for name, value in facts.items())
    page.wait_for_selector(f"#run-view .rv:is({conditions}, [data-state=failed])", state="attached")
    assert page.locator(f"#run-view .rv{conditions}").count(), page.inner_text(".rv-message")


def recorded(page: Any, records: int) -> None:
    """Wait until the page has received ``records`` records of the gates, or the run has failed."""
    page.wait_for_function(
        "(wanted) => { const { records, state } = document.querySelector('#run-view .rv').dataset; "
        "return Number(records) >= wanted || state === 'failed'; }",
        arg=records,
    )
    assert int(page.get_attribute("#run-view .rv", "data-records")) >= records, page.inner_text(".rv-message")


def gate_map(page: Any, expression: str, *arguments: Any) -> Any:
    """Return the value of an expression in ``map``, the widget on the page, and ``args``."""
    find = "document.querySelector('#run-view .rv').parentElement.gateMap"
    return page.evaluate(f"(args) => {{ const map = {find}; return {expression}; }}", list(arguments))
