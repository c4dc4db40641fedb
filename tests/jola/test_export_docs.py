"""The guide to exporting: its commands and its programs run as they stand there."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from jola import cli
from jola.config import ModelConfig, RunConfig
from jola.model import JoLAModel
from jola.runs import Run, RunStore
from tests.conftest import spread_edits

GUIDE = Path(__file__).parents[2] / "docs" / "exporting.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONAL = {"peft": "baselines", "lm_eval": "lm-eval"}


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(GUIDE.read_text("utf-8"))


def test_everything_in_the_guide_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
    spread_edits(model)
    run = Run.create(RunStore().root / "my-run", RunConfig(model=ModelConfig(model=str(tiny_folder))))
    model.save_pretrained(run.adapter_dir)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(tiny_folder, "my-base")
    # Where the adapter that was exported says that its model is: its name without the folders.
    shutil.copytree(tiny_folder, tiny_folder.name)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    kinds, skipped = [], []
    for kind, text in blocks():
        missing = [name for name in OPTIONAL if f"import {name}" in text or f"from {name}" in text]
        if any(not _installed(name) for name in missing):
            skipped += missing
            continue
        kinds.append(kind)
        if kind == "sh":
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "jola"
                cli.main(arguments)
        else:
            names: dict[str, Any] = {}
            exec(compile(text, str(GUIDE), "exec"), names)
    assert kinds.count("sh") == 6 and kinds.count("python") == 8 - len(skipped)
    written = {"my-adapter", "my-model", "my-script", "my-ia3", "my-model.gguf", "edits.csv", "edits.json"}
    assert written <= {path.name for path in work.iterdir()}


def test_every_form_is_in_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    text = GUIDE.read_text("utf-8")
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    forms = re.findall(r"• (\w+)", capsys.readouterr().out)
    assert len(forms) == 6
    for form in forms:
        assert f"jola export {form}" in text and f"| {form} |" in text


def _installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True
