"""The documentation: every block of code runs, every quoted message is one of the program's, the site builds."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import jola
from jola.cli.main import main as cli
from jola.config import DataConfig
from jola.data.tasks import load_task
from tests import ROOT
from tests.documented import (
    ELSEWHERE,
    LANGUAGES,
    NOT_RUN,
    PAGES,
    SMALLER,
    Shell,
    blocks,
    data_files,
    indented,
    make_world,
    missing_package,
    named,
    smaller,
)  # fmt: skip
from tools.documentation import SETTINGS, settings_page
from workbench import figures

WITH_CODE = [page for page in PAGES if any(block.language != "text" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_say_what_they_are(page: Path) -> None:
    unknown = [(block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES]
    assert not unknown
    assert not indented(page)


@pytest.mark.parametrize("page", [page for page in WITH_CODE if named(page) not in ELSEWHERE], ids=named)
def test_everything_in_a_page_runs(
    page: Path, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(home, tiny_folder, monkeypatch)
    names: dict[str, Any] = {"__name__": "__main__"}
    shell, ran = Shell(), 0
    for number, block in enumerate(blocks(page)):
        text, place = smaller(block.text, set()), f"{named(page)}, line {block.line}"
        if block.language == "sh":
            shell.run(text)
        elif block.language == "python" and not missing_package(text):
            # Errors name the lines of the page.
            exec(compile("\n" * (block.line - 1) + text, place, "exec"), names)
        elif block.language in ("json", "jsonl"):
            for task in data_files(block, tmp_path / str(number)):
                loaded = load_task(DataConfig(task=str(task)), seed=42)
                assert len(loaded.train) >= 1
        ran += block.language != "text"
    assert ran


def test_what_is_not_run_is_still_needed() -> None:
    """Every substitution and exception is used by a page."""
    used: set[str] = set()
    lines: list[str] = []
    for page in PAGES:
        for block in blocks(page):
            smaller(block.text, used)
            lines += block.text.splitlines() if block.language == "sh" else []
    assert used == set(SMALLER)
    assert all(any(line.startswith(start) for line in lines) for start in NOT_RUN)
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text("utf-8")


def test_the_guide_to_exporting_has_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "exporting.md").read_text("utf-8")
    with pytest.raises(SystemExit):
        cli(["export", "--help"])
    forms = re.findall(r"• (\w+)", capsys.readouterr().out)
    assert len(forms) == 6
    for form in forms:
        assert f"jola export {form}" in text and f"| {form} |" in text


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            assert not anchor or anchor in _anchors(found), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("package", ["jola", "workbench"])
def test_the_layout_lists_every_package(package: str) -> None:
    listed = re.findall(rf"^({package}/\w+)/ +\S", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    packages = [path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob(f"{package}/*/__init__.py")]
    assert sorted(listed) == sorted(packages)


def test_the_reference_of_settings_is_up_to_date() -> None:
    assert SETTINGS.read_text("utf-8") == settings_page(), "run: python -m tools.documentation"


# Errors


Template = tuple[str, ...]
"""The constant pieces of a text of the program, between which values are filled in."""


def templates() -> set[Template]:
    """Return the texts of the program: formatted strings, and constants of several words."""
    found: set[Template] = set()
    for path in [*ROOT.glob("jola/**/*.py"), *ROOT.glob("workbench/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [""]
                for part in node.values:
                    if isinstance(part, ast.Constant):
                        pieces[-1] += str(part.value)
                    else:
                        pieces.append("")
                found.add(tuple(pieces))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                found.add((node.value,))
    return found


def filled(sentence: str, template: Template) -> list[str] | None:
    """Return the values filled into a template to form a sentence, or None if it does not match."""
    if not all(piece in sentence for piece in template):
        return None
    match = re.fullmatch("(.+?)".join(map(re.escape, template)), sentence, re.DOTALL)
    return list(match.groups()) if match else None


OWN, LONG = 15, 45
"""Minimum length of a template's constant text; length above which filled-in values must also be its texts."""


def is_said(sentence: str, known: set[Template]) -> bool:
    """Return whether a sentence is a text of the program, and so is every long value that is filled in."""
    for template in known:
        parts = filled(sentence, template) if sum(map(len, template)) >= OWN else None
        if parts is not None and all(is_said(part, known) for part in parts if len(part) > LONG):
            return True
    # Messages about an example begin with its line.
    where, _, what = sentence.partition(": ")
    return where.startswith("Line ") and is_said(what.removesuffix("."), known)


def test_quoted_sentences_are_those_of_the_program() -> None:
    page = ROOT / "docs" / "errors.md"
    quoted = [block.text.strip() for block in blocks(page) if block.language == "text"]
    known = templates()
    makefile = " ".join(re.sub(r'[\\"]', " ", (ROOT / "Makefile").read_text("utf-8")).split())
    assert len(quoted) > 30 and len(set(quoted)) == len(quoted)
    assert not [sentence for sentence in quoted if sentence not in makefile and not is_said(sentence, known)]


def test_a_sentence_that_nobody_says_is_found_out() -> None:
    known = templates()
    assert is_said("--heads names 40:0, but the model has 30 layers of 9 heads, both counted from 0.", known)
    assert not is_said("--heads names 40:0, but this model has 30 layers of 9 heads, both counted from 0.", known)
    assert is_said("Line 3 of a.jsonl: the turn before the answer must be a user turn.", known)


# The site


REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("package", [jola, figures], ids=["jola", "workbench.figures"])
def test_every_public_name_is_in_the_reference(package: Any) -> None:
    described = re.findall(r"^::: (\S+)$", "\n".join(p.read_text("utf-8") for p in REFERENCE.glob("*.md")), re.M)
    assert len(set(described)) == len(described)
    names = {path.rpartition(".")[2] for path in described}
    constants = {"COLOURS", "CONFIG", "QUANTITIES", "Figure", "frames"}
    missing = set(package.__all__) - names - constants
    assert not missing


class Loads(HTMLParser):
    """Collects the addresses that a page loads when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(str(given["src"]))
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect", "icon", "modulepreload"):
            self.found.append(str(given.get("href")))


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(site.rglob("*.html"))
    made = {page.relative_to(site).with_suffix("").as_posix() for page in pages}
    written = [page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in PAGES[1:]]
    assert {"index" if name == "README" else name for name in written} <= made
    for page in pages:
        reader = Loads()
        reader.feed(page.read_text("utf-8"))
        assert not [address for address in reader.found if re.match(r"(https?:)?//", address)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"@import[^;]*//|url\(\"?(https?:)?//", style.read_text("utf-8")), style.name
    assert "JoLAModel" in (site / "reference" / "jola.html").read_text("utf-8")
