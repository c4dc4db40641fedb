"""The printed address in a browser, which needs the token once and then remembers it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE, App, OpenPage, ready, serve

NOTEBOOK = "http://notebook.example/"


@pytest.fixture
def guarded(home: Path) -> Iterator[App]:
    """An app that asks for its token."""
    with serve(home, token=True) as app:
        yield app


def test_the_printed_address_is_opened_once(guarded: App, open_page: OpenPage, browser: Any) -> None:
    place, _, secret = guarded.address.partition("?token=")
    page = open_page(replace(guarded, address=place.rstrip("/")), query=f"run=sample&token={secret}")
    assert secret not in page.url and page.url.startswith(place) and "run=sample" in page.url
    page.reload()
    ready(page)
    assert secret not in page.content()
    again = page.context.new_page()
    again.goto(place)
    ready(again)
    again.close()

    stranger = browser.new_context()
    stranger.set_default_timeout(PATIENCE)
    refused = stranger.new_page()
    assert refused.goto(place).status == 401
    assert "Open the address that the app printed" in refused.inner_text("body")
    # A link on a page of another site, for example in a notebook, works only for a browser that has the token.
    link = f'<a href="{place}?run=sample">app</a>'
    for context in (page.context, stranger):
        elsewhere = context.new_page()
        elsewhere.route(NOTEBOOK, lambda route: route.fulfill(body=link, content_type="text/html"))
        elsewhere.goto(NOTEBOOK)
        elsewhere.click("a")
        if context is stranger:
            elsewhere.get_by_text("Open the address that the app printed").wait_for()
        else:
            ready(elsewhere)
        elsewhere.close()
    stranger.close()
