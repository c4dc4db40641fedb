"""The export panel in a real Chromium: from the chosen run to a file that loads."""

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from jola.jola_model import JoLAModel
from jola.runs.store import RunStore
from tests.browser.conftest import App, OpenPage, press_until
from tests.tiny import make_model, make_tokenizer
from tests.workbench.edited import edited_run
from tests.workbench.started import started

A_WHILE = 180_000
"""Milliseconds for an export, a process that loads a model while other tests use the same cores."""
IDS = torch.tensor([[5, 17, 250, 9, 44, 3]])
# In processes of exports: after the line "Measuring", they wait as long as the file in HOLD exists.
SITE = """
import os, sys, time

class Held:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, text):
        self.file.write(text)
        self.file.flush()
        while "Measuring" in text and os.path.exists(os.environ["HOLD"]):
            time.sleep(0.01)

if "export" in sys.orig_argv:
    sys.stderr = Held(sys.stderr)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app with one run of a tiny model."""
    home = tmp_path_factory.mktemp("home")
    make_model("llama").save_pretrained(home / "tiny")
    make_tokenizer().save_pretrained(home / "tiny")
    edited_run(RunStore(home / "runs").root / "one", home / "tiny")
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(SITE)
    variables = {"PYTHONPATH": str(home / "site"), "HOLD": str(home / "hold")}
    with started(home, home / "tmp", variables=variables) as app:
        yield App(app.address, home, app.process)


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, app: App, open_page: OpenPage) -> Any:
    page = open_page(app, color_scheme=request.param)
    page.click("#places button[role=tab]:has-text('Runs')")
    page.click(".rt tbody tr[data-id=one]")
    page.click(".rt-export:enabled")
    page.wait_for_function("document.activeElement?.closest('#export-form')")  # it does not scroll after that
    return page


def choose(page: Any, title: str, help: str) -> None:
    page.click(f"#export-form label:has-text('{title}')")
    page.wait_for_selector(f".jw-export-help:has-text('{help}')")


def test_a_checkpoint_is_measured_downloaded_and_loaded(page: Any, app: App, tmp_path: Path) -> None:
    choose(page, "Plain checkpoint", "folded into the weights")
    page.click("#export-format label:has-text('float16')")
    (app.home / "hold").touch()
    with page.expect_download(timeout=A_WHILE) as download:
        page.click("#export-go")
        page.wait_for_selector("#export-status .jw-busy:has-text('Measuring')", timeout=A_WHILE)
        assert page.is_disabled("#export-go")
        (app.home / "hold").unlink()
    assert download.value.suggested_filename == "one-merged-float16.zip"
    download.value.save_as(tmp_path / "a.zip")
    expect(page.locator("#export-code")).to_contain_text("AutoModelForCausalLM.from_pretrained")
    facts = page.inner_text("#export-status")
    assert "max |Δlogit|" in facts and "before the cast to float16" in facts and "n = 8 prompts" in facts
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one-merged-float16", dtype=torch.float32)
    model = JoLAModel.from_adapter(app.runs / "one" / "adapter", dtype="float32")
    with torch.no_grad():
        assert (loaded(IDS).logits - model(IDS).logits).abs().max() < 0.05
        assert (model(IDS, strength=0.0).logits - model(IDS).logits).abs().max() > 0.1
    expect(page.locator("#export-go")).to_be_enabled()
    page.click("#export-close")
    page.wait_for_selector("#export", state="detached")


def test_a_table_by_the_keyboard(page: Any, tmp_path: Path) -> None:
    page.focus("#export-form label:last-of-type input")
    page.keyboard.press("Space")
    page.wait_for_selector(".jw-export-help:has-text('saved masks')")
    with page.expect_download(timeout=A_WHILE) as download:
        page.focus("#export-go")
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "edits.csv")
    with open(tmp_path / "edits.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 24
    expect(page.locator("#export-status")).to_contain_text("24, of which")


def test_what_cannot_be_written_is_a_sentence(page: Any, tmp_path: Path) -> None:
    choose(page, "IA3 adapter", "The scales")
    page.fill("#export-folder :is(input, textarea)", str(tmp_path / "none"))
    page.click("#export-go")
    page.wait_for_selector("#export-status .jw-error:has-text('There is no folder')")
    page.fill("#export-folder :is(input, textarea)", str(tmp_path))
    exists = "#export-status .jw-error:has-text('already exists')"
    press_until(page, "#export-go", f".jw-export-facts:has-text('Written to'), {exists}")
    assert (tmp_path / "one-ia3" / "adapter_config.json").is_file()
    press_until(page, "#export-go", exists)
