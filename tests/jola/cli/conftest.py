"""Fixtures: a folder with a tiny model and a task, a finished run on it, and the command line in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from jola.cli.main import main
from jola.runs.run import Run
from tests.jola.cli.commands import QUICK, Result, lines
from tests.tiny import make_model


@pytest.fixture
def jola(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: Any) -> Result:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit:
            assert exit.code is None or isinstance(exit.code, int)
            code = exit.code or 0
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny model and a task; tests do not change it."""
    folder = tmp_path_factory.mktemp("place")
    make_model("llama").save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "task").mkdir()
    for part, start, count in (("train", 0, 12), ("validation", 12, 4), ("test", 16, 6)):
        (folder / "task" / f"{part}.jsonl").write_text(lines(start, count))
    return folder


@pytest.fixture(scope="session")
def run(place: Path) -> Run:
    """A finished run on that task."""
    output = place / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOLA_HOME", str(place / "home"))
        main(["train", "--model", f"{place}/tiny", "--task", f"{place}/task", "--output", f"{output}", *QUICK])
    return Run.open(output)
