"""The page with the map of edits, open in the browser."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE, App, OpenPage
from tests.browser.edit_map.demo import Demo, Serve, Show, Shown, gates
from workbench.playground import edit_map as component
from workbench.theme import STYLE, theme


@pytest.fixture
def serve_demo(tmp_path: Path) -> Iterator[Serve]:
    pages = []

    def make(demo: Demo) -> App:
        page = demo.build()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        _, address, _ = page.launch(
            server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, ssr_mode=False,
            footer_links=[], run_history=False, theme=theme(), head=f"<style>{STYLE}{component.STYLE}</style>",
        )  # fmt: skip
        pages.append(page)
        return App(address.rstrip("/"), tmp_path)

    yield make
    for page in pages:
        page.close(verbose=False)


@pytest.fixture
def show(serve_demo: Serve, open_page: OpenPage) -> Show:
    def make(demo: Demo | None = None, **options: Any) -> Shown:
        demo = demo or Demo(gates(8, 6))
        page = open_page(serve_demo(demo), **options)
        shown = Shown(demo, page)
        page.wait_for_selector(".em[data-open]", state="attached")
        shown.map(f"map.patience = {PATIENCE}")  # a late answer on a busy machine is not a lost one
        return shown

    return make
