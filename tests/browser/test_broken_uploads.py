"""Uploads of unusable files: one sentence, nothing is lost, and the page continues to work."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from jola.runs.archive import export_archive
from jola.runs.store import RunStore
from tests.browser.conftest import App, OpenPage
from tests.browser.test_training import set_number

GOOD = {"prompt": "Good or bad?", "completion": "good"}
BROKEN_DATA = {
    "torn.jsonl": (json.dumps(GOOD) + '\n{"prompt": \n').encode(),
    "empty.jsonl": b"",
    "latin.csv": "prompt,completion\né,b\n".encode("latin-1"),
    "columns.csv": b"question,label\na,b\n",
    "noise.parquet": bytes(range(256)) * 40,
    "<img src=x>.json": b"[1, 2",
}


def test_data_files(new_app: App, open_page: OpenPage) -> None:
    page = open_page(new_app)
    set_number(page, "epochs", 3)
    chooser = page.locator("input[type=file]").first
    for name, content in BROKEN_DATA.items():
        chooser.set_input_files([{"name": name, "mimeType": "text/plain", "buffer": content}])
        stem = name.rpartition(".")[0].strip("<>").partition(" ")[0]
        page.wait_for_function(
            "(stem) => document.querySelector('#upload-message [role=alert]')?.textContent.includes(stem)", arg=stem
        )
        sentence = page.inner_text("#upload-message")
        assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence, sentence
        assert str(new_app.home) not in sentence and "/tmp" not in sentence
        assert page.locator("#upload-message img").count() == 0
        assert page.input_value("#setting-epochs input") == "3"
        assert page.input_value("#setting-task input") == "Movie-review sentiment"
    rows = "\n".join([json.dumps(GOOD)] * 3).encode()
    chooser.set_input_files([{"name": "good.jsonl", "mimeType": "text/plain", "buffer": rows}])
    page.wait_for_selector("#upload-message [role=status]")
    assert page.inner_text("#upload-message") == "good.jsonl: 3 examples."
    expect(page.locator("#setting-task input")).to_have_value(re.compile(r"good\.jsonl$"))
    assert page.locator("#start").is_enabled()


@pytest.fixture
def broken_zips(new_app: App, tmp_path: Path) -> list[Path]:
    """Zip files of an exported run, damaged in several ways."""
    whole = export_archive(RunStore(new_app.runs).get("sample"), tmp_path / "whole.zip")
    torn = tmp_path / "torn.zip"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    noise = tmp_path / "noise.zip"
    noise.write_bytes(b"PK\x03\x04 nothing")
    climbing = tmp_path / "climbing.zip"
    climbing.write_bytes(whole.read_bytes())
    with zipfile.ZipFile(climbing, "a") as archive:
        archive.writestr("../../evil.py", "1")
    poor = tmp_path / "poor.zip"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(poor, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:-8] if name.endswith(".safetensors") else data)
    return [torn, noise, climbing, poor]


def said(page: Any, name: str) -> str:
    """Wait for the sentence about a file, and return it."""
    page.wait_for_function(
        "(name) => { const box = document.querySelector('.rt-toast');"
        " return box && !box.hidden && box.textContent.includes(name); }",
        arg=name,
    )
    return page.inner_text(".rt-toast").removesuffix("×").strip()


def test_adapters(new_app: App, open_page: OpenPage, broken_zips: list[Path], tmp_path: Path) -> None:
    store = RunStore(new_app.runs)
    before = sorted(path.name for path in store.root.iterdir())
    page = open_page(new_app)
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector('.rt[data-state="ready"][data-runs="1"]')

    def give(file: Path) -> None:
        with page.expect_file_chooser() as chooser:
            page.click("#runs-import")
        chooser.value.set_files(file)

    for file in broken_zips:
        give(file)
        sentence = said(page, file.name)
        assert (
            sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence and "/tmp" not in sentence
        ), sentence
        assert sorted(path.name for path in store.root.iterdir()) == before
    give(tmp_path / "whole.zip")
    page.wait_for_selector('.rt[data-state="ready"][data-runs="2"]')
    assert len(store.list()) == 2
