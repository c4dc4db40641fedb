"""Draw figures as pictures, with the Chromium of the browser tests."""

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

WIDTH, SCALE, COLOURS = 840, 1.5, 255
"""Width of a picture in CSS pixels, picture pixels per CSS pixel, and number of colors."""

Draw = Callable[[Mapping[str, Any]], bytes]
"""A function from the plotly JSON of a figure to a PNG file."""


@contextmanager
def drawing() -> Iterator[Draw]:
    """Yield a function that draws figures, in a browser that is open within the block."""
    from PIL import Image
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    from tools.browser import ensure

    chromium = ensure()  # starts playwright itself, and a thread can run only one instance
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content("<!doctype html><body></body>")
        page.add_script_tag(content=get_plotlyjs())

        def draw(figure: Mapping[str, Any]) -> bytes:
            size = {"format": "png", "width": WIDTH, "height": figure["layout"]["height"], "scale": SCALE}
            parts = {"data": figure["data"], "layout": figure["layout"]}
            address = page.evaluate("([figure, size]) => Plotly.toImage(figure, size)", [parts, size])
            picture = Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
            file = BytesIO()
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
            return file.getvalue()

        yield draw
        browser.close()
