"""Reading of documentation pages, and the small environment in which their code runs.

In it, the default model is a tiny random model and the default task has a few sentences, so that the code of the pages
runs quickly. `SMALLER` replaces what is still too large, and `NOT_RUN` lists what cannot run.
"""

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from jola.cli.main import main as cli
from jola.data import assets
from jola.data.records import Example, Message
from jola.data.tasks.registry import REGISTRY
from jola.data.tasks.sources import Parts
from tests import ROOT
from tests.workbench.edited import edited_run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "json", "jsonl", "text"}
"""Languages of blocks. ``text`` is not run: output, formulas, the layout of files, forms of commands."""

SMALLER = {
    # The tiny model has 12 heads.
    "k=32": "k=4",
    "top(32)": "top(4)",
    "--k 32": "--k 4",
    "dsp@32": "dsp@4",
    "--k auto,16,64": "--k 4 --selectors gradient --epochs 1",
    "--seeds 42,43,44": "--seeds 42",
    "--epochs 4": "--epochs 1",
}
"""Text of pages, and the text that runs instead."""

NOT_RUN = {
    "make app": "starts the app and does not end; tests/browser does that",
    "make test": "these are the tests",
    "jola tasks fetch boolq": "fetches data from the Hub",
    "jola train --task boolq": "fetches data from the Hub",
    ". .venv/bin/activate": "changes the shell",
    "python -m tools.sample_run": "trains the default model for minutes",
    "python -m benchmarks.": "measures for minutes or hours",
    "jola compare --methods": "starts processes that train the default model",
    "jola grid run": "starts processes that train the default model",
    "python -m jola.evaluation.harness run": "fetches a task of the harness",
}
"""Prefixes of commands that are not run, and the reasons. Tests check only that their programs exist."""

ELSEWHERE = {"docs/api.md": "tests/workbench/api/test_endpoints.py"}
"""Pages whose code needs a running app, and the tests that run it."""

OPTIONAL = ("lm_eval", "peft")
"""Packages that may be missing; blocks that import a missing one are not run."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line where the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    fence, begun, lines = "", 0, page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not fence and (opening := re.match(r"(`{3,})\s*(\w*)", line)):
            fence, begun, language = opening[1], number, opening[2]
        elif fence and line.rstrip() == fence:
            found.append(Block(language, "\n".join(lines[begun : number - 1]) + "\n", begun + 1))
            fence = ""
    assert not fence, f"{page.name}: the block of line {begun} does not end"
    return found


def indented(page: Path) -> list[int]:
    """Return the lines at which an indented block of code begins; such blocks do not name their language."""
    fence, before, found = False, "", []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence ^= line.startswith("```")
        if not fence and line.startswith("    ") and not before.strip():
            found.append(number)
        before = line
    return found


def named(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def sentences(part: str, count: int) -> list[Example]:
    """Return examples of the tiny default task, in our own words."""
    words = (("warm", "positive"), ("dull", "negative"))
    prompts = [(f"Is it positive or negative? A {word} film, {part} {i}.", label) for i in range(count)
               for word, label in words]  # fmt: skip
    return [Example((Message("user", prompt),), label) for prompt, label in prompts]


def make_world(home: Path, model: Path, patch: pytest.MonkeyPatch) -> None:
    """Install the tiny default model and task, and the runs, model and task that the pages assume."""
    real = assets.ensure
    patch.setattr(assets, "ensure", lambda name, *rest: model if name == assets.DEFAULT_MODEL else real(name, *rest))
    parts = Parts(sentences("train", 4), sentences("validation", 2), sentences("test", 2))
    info = REGISTRY["sentiment"]
    patch.setitem(REGISTRY, "sentiment", type(info)(**{**vars(info), "load": lambda: parts}))
    home.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("old-run", "other-run", "my-run"), start=1):
        edited_run(home / "runs" / name, model, seed=seed)
    # An exported adapter names its model without the folders.
    for name in ("my-base", model.name):
        shutil.copytree(model, home / name)
    task = home / "my-task"
    task.mkdir()
    rows = [{"prompt": e.prompt[0].content, "completion": e.completion} for e in sentences("mine", 8)]
    (task / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    patch.chdir(home)
    patch.setattr(sys, "path", [*sys.path])


class Shell:
    """Runs the lines of a block like a shell, in this process, and records those that are not run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.left_out: list[str] = []

    def run(self, text: str) -> None:
        """Run a block."""
        for line in text.replace("\\\n", " ").splitlines():
            if command := self._expanded(line.strip()):
                self._command(command)

    def _expanded(self, line: str) -> str:
        """Return the line with each ``$(…)`` replaced by the output of its command."""
        return re.sub(r"\$\(([^)]*)\)", lambda inner: self._command(inner[1]).strip(), line)

    def _command(self, line: str) -> str:
        program, *arguments = shlex.split(line, comments=True) or [""]
        if not program:
            return ""
        if reason := next((start for start in NOT_RUN if line.startswith(start)), None):
            self.left_out.append(reason)
            check_exists(program, arguments)
            return ""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if program == "jola":
                _ended(lambda: cli(arguments))
            else:
                assert (program, arguments[:1]) == ("python", ["-m"]), f"Nobody knows how to run {line!r}"
                before, sys.argv = sys.argv, arguments[1:]
                try:
                    _ended(lambda: runpy.run_module(arguments[1], run_name="__main__"))
                finally:
                    sys.argv = before
        self.ran.append(line)
        return said.getvalue()


def _ended(program: Any) -> None:
    try:
        program()
    except SystemExit as end:
        assert not end.code, end.code


def check_exists(program: str, arguments: list[str]) -> None:
    """Assert that the target or program of a command that is not run exists."""
    if program == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^{re.escape(arguments[0])}:", makefile, re.MULTILINE), f"make {arguments[0]}"
    if program == "python" and arguments[0] == "-m":
        assert (ROOT / Path(*arguments[1].split("."))).with_suffix(".py").is_file(), arguments[1]
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), arguments[0]


def smaller(text: str, used: set[str]) -> str:
    """Apply the replacements of `SMALLER`; add those that were applied to ``used``."""
    for written, here in SMALLER.items():
        if written in text:
            used.add(written)
            text = text.replace(written, here)
    return text


def missing_package(text: str) -> str | None:
    """Return a package that a block imports and that is not installed, or None."""
    imported = [name for name in OPTIONAL if re.search(rf"^(?:from|import) {name}\b", text, re.MULTILINE)]
    return next((name for name in imported if find_spec(name) is None), None)


def data_files(block: Block, folder: Path) -> Iterator[Path]:
    """Write a task with the examples in a block and yield its folder; yield nothing if there are no examples."""
    if block.language == "jsonl":
        rows: Any = [json.loads(line) for line in block.text.splitlines()]
    else:
        rows = json.loads(block.text)
    if isinstance(rows, list) and {"prompt", "instruction", "messages"} & set(rows[0]):
        folder.mkdir(parents=True)
        for part in ("train", "validation", "test"):
            (folder / f"{part}.{block.language}").write_text(block.text, "utf-8")
        yield folder
