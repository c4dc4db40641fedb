"""Figures in a Gradio page, drawn by Gradio's plotly.js, which is older than that of plotly."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from tests.browser.conftest import App, OpenPage
from tests.workbench.figures.examples import HOSTILE, TOKENS, all_figures
from workbench.figures import style

LIGHT = pytest.mark.parametrize("figures_app", [False], indirect=True, ids=["light"])
"""For tests that do not depend on colors."""
READY = "() => { document.documentElement.dataset.ready = '1'; }"


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def figures_app(request: pytest.FixtureRequest) -> Iterator[tuple[App, dict[str, Any], bool]]:
    """A page with every figure, in light or dark mode."""
    import gradio as gr

    made = all_figures(dark=request.param)
    with gr.Blocks(analytics_enabled=False) as page:
        for name, figure in made.items():
            gr.Plot(figure, show_label=False, container=False, elem_id=name)
        page.load(None, None, None, js=READY)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, run_history=False)
    yield App(f"http://127.0.0.1:{port}", Path()), made, request.param
    page.close()


def test_every_figure_is_drawn_as_it_was_made(
    figures_app: tuple[App, dict[str, Any], bool], open_page: OpenPage
) -> None:
    app, made, dark = figures_app
    page = open_page(app)
    for name, figure in made.items():
        page.wait_for_selector(f"#{name} .main-svg")
        drawn = page.evaluate(
            "(name) => { const plot = document.querySelector(`#${name} .js-plotly-plot`);"
            " return { traces: plot._fullData.map((trace) => [trace.type, trace.visible]),"
            " ground: plot._fullLayout.paper_bgcolor, height: plot._fullLayout.height,"
            " maps: plot.querySelectorAll('.hm image').length, title: plot.querySelector('.gtitle').textContent }; }",
            name,
        )
        assert [kind for kind, _ in drawn["traces"]] == [trace.type for trace in figure.data], name
        empty = [trace.hoverinfo == "skip" and trace.type == "heatmap" for trace in figure.data]  # frames of maps
        assert all(visible is True or empty[i] for i, (_, visible) in enumerate(drawn["traces"])), name
        assert drawn["ground"] == style.palette(dark).surface, name
        assert drawn["height"] == figure.layout.height, name
        maps = [trace for trace in figure.data if trace.type == "heatmap" and np.isfinite(trace.z.astype(float)).any()]
        assert drawn["maps"] >= len(maps), name
        assert drawn["title"], name


@LIGHT
def test_titles_are_inside_and_words_do_not_lie_on_each_other(
    figures_app: tuple[App, dict[str, Any], bool], open_page: OpenPage
) -> None:
    """Titles, headings, legends and axis titles of each figure, at the narrowest width at which figures are shown."""
    app, made, _ = figures_app
    page = open_page(app, viewport={"width": 760, "height": 900})
    for name in made:
        page.wait_for_selector(f"#{name} .main-svg")
        boxes = page.evaluate(
            "(name) => { const plot = document.querySelector(`#${name} .js-plotly-plot`);"
            " const frame = plot.getBoundingClientRect();"
            " const parts = '.gtitle, .annotation-text, .legend .legendtext, .xtitle, .ytitle';"
            " return Array.from(plot.querySelectorAll(parts)).filter((part) => part.textContent.trim()).map((part) => {"
            " const box = part.getBoundingClientRect(); return [part.textContent, box.left - frame.left,"
            " box.top - frame.top, box.right - frame.left, box.bottom - frame.top, frame.width, frame.height]; }); }",
            name,
        )
        assert boxes, name
        for words, left, top, right, bottom, width, height in boxes:
            assert left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1, (name, words)
        for index, (words, *box) in enumerate(boxes):
            for others, *other in boxes[index + 1 :]:
                across = min(box[2], other[2]) - max(box[0], other[0])
                down = min(box[3], other[3]) - max(box[1], other[1])
                assert across < 2 or down < 4, (name, words, others)


@LIGHT
def test_text_of_others_is_shown_and_never_run(
    figures_app: tuple[App, dict[str, Any], bool], open_page: OpenPage
) -> None:
    app, _, _ = figures_app
    page = open_page(app)
    for name in ("compare_curves", "next_tokens"):
        page.wait_for_selector(f"#{name} .main-svg")
        assert "<img src=x one" in page.inner_text(f"#{name}").replace("␣", " ")
    # Hovering over its mark shows the whole token.
    marks = page.locator("#next_tokens .scatterlayer .trace").last.locator(".point")
    marks.nth(TOKENS.index(HOSTILE)).hover(force=True)
    page.wait_for_function(
        "(words) => document.querySelector('#next_tokens .hoverlayer').textContent.includes(words)",
        arg=HOSTILE.replace(" ", "␣"),
    )
    assert page.locator("img[src='x']").count() == 0


@LIGHT
def test_the_tool_bar_saves_a_picture_and_bears_no_logo(
    figures_app: tuple[App, dict[str, Any], bool], open_page: OpenPage
) -> None:
    app, _, _ = figures_app
    page = open_page(app)
    page.wait_for_selector("#gate_map .main-svg")
    page.hover("#gate_map")
    assert page.locator("#gate_map .modebar-btn--logo").count() == 0
    with page.expect_download() as saved:
        page.locator("#gate_map .modebar-btn[data-title*='PNG']").click()
    assert saved.value.suggested_filename == "jola-figure.png"
    data = Path(saved.value.path()).read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000
