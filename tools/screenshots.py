"""Take the screenshots of the documentation: every tab of the app, light and dark, in two sizes.

    python -m tools.screenshots [--output docs/images] [--only playground]

The app runs in a temporary home folder with only the samples, and uses the default model from the user's cache
(downloaded if it is missing). The app computes the results in the pictures while they are taken.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from jola.system.paths import HOME_VARIABLE, cache_home
from tools.browser import ensure

ROOT = Path(__file__).resolve().parent.parent
SIZES = ((1440, 900), (1024, 768))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip


def show_train(page: Page) -> None:
    """Show the sample run at its last step."""
    page.wait_for_selector("#run-view .rv[data-state]", state="attached")
    page.wait_for_timeout(1500)


def show_playground(page: Page) -> None:
    """Show only the forty strongest edits, and the next token with them."""
    page.wait_for_selector("#tokens table")
    page.wait_for_selector("#answer-shares table")
    page.fill("#strongest input", "40")
    page.click("#mask-strongest")
    page.wait_for_function("document.querySelector('#mask-summary').innerText.startsWith('40 of')")
    page.wait_for_function("!document.querySelector('#places').innerText.includes('Computing')")
    page.wait_for_timeout(2500)


def show_effects(page: Page) -> None:
    """Show the effect of every edit on the answer."""
    page.wait_for_selector("#tokens table")
    page.get_by_role("tab", name="Effects").click()
    page.click("#effects")
    page.wait_for_selector("#effects-table table", timeout=180_000)
    page.wait_for_selector("#effects-plot .js-plotly-plot")
    page.wait_for_timeout(1500)


def show_runs(page: Page) -> None:
    """Show the table of runs, with one run chosen."""
    page.wait_for_selector(".rt tbody tr[data-id]")
    page.click(".rt tbody tr[data-id] td:nth-child(3)")
    page.wait_for_timeout(1500)


def show_compare(page: Page) -> None:
    """Show the sample comparison."""
    page.wait_for_selector('.cv[data-work="finished"]')
    page.wait_for_selector("#compare-heads-plot .js-plotly-plot")
    page.wait_for_timeout(2500)


def show_studies(page: Page) -> None:
    """Show a study of two methods and two seeds, which runs before the first picture, with one cell chosen."""
    page.wait_for_selector('.sv[data-state="ready"]')
    if page.get_attribute(".sv", "data-count") == "0":
        page.click(".sv-small")
        page.wait_for_function("document.querySelector('#studies-cost').innerText.includes('4 cells')")
        page.click("#studies-start")
    page.wait_for_selector('.sv[data-work="finished"]', timeout=900_000)
    page.wait_for_selector("#studies-table-text table")
    place = page.evaluate("document.querySelector('#study-view .sv').parentElement.studyMatrix.xy(0, 0)")
    page.mouse.click(*place)
    page.wait_for_selector(".sv-card:not([hidden])")
    page.wait_for_timeout(1500)


PLACES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "train": ("train", show_train),
    "playground": ("playground", show_playground),
    "effects": ("playground", show_effects),
    "runs": ("runs", show_runs),
    "compare": ("compare", show_compare),
    "studies": ("studies", show_studies),
}


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Serve the app with a home folder and yield its address."""
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0", "--no-token"]
    environment = {**os.environ, HOME_VARIABLE: str(home)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            address = next((word for word in line.split() if word.startswith("http://")), "")
            if address:
                break
        if not address:
            raise SystemExit("The app did not start.")
        try:
            yield address.rstrip("/")
        finally:
            process.terminate()


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", choices=sorted(PLACES), action="append", help="take only this screenshot")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    shared = cache_home()
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        (home / "cache").symlink_to(shared, target_is_directory=True)
        browser = playwright.chromium.launch(executable_path=str(ensure()), args=FLAGS)
        with served(home) as address:
            for name in options.only or PLACES:
                for width, height in SIZES:
                    for scheme in ("light", "dark"):
                        _take(browser, address, name, width, height, scheme, options.output)
        browser.close()


def _take(browser: Any, address: str, name: str, width: int, height: int, scheme: str, output: Path) -> None:
    place, prepare = PLACES[name]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{address}/?tab={place}&run=sample")
    page.wait_for_selector("html[data-ready]", state="attached")
    prepare(page)
    page.mouse.move(width - 1, height - 1)
    picture = output / f"{name}-{scheme}{'' if width == SIZES[0][0] else f'-{width}'}.png"
    # These pages have few colors: 256 are enough, and the file is a third as large.
    Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        picture, optimize=True
    )
    context.close()
    print(picture)  # the only output of the script


if __name__ == "__main__":
    main()
