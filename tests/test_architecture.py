"""The rules of the layout: the contracts of import-linter, and rules that it cannot express.

The latter are checked on the syntax tree of every file. Each rule is a function from a source to its violations, so
that the last tests can check that it finds a violation.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
import yaml

import jola
from tests import ROOT

MAX_LINES = 450

UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
UNPICKLING_CALLS = {"torch.load", "pandas.read_pickle", "pandas.io.pickle.read_pickle"}
IMPORTING_CALLS = {"__import__", "importlib.import_module"}

# Packages whose import name differs from the name of their distribution.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}

# Names of XML namespaces are not addresses: nothing is loaded from them.
ADDRESS = re.compile(r"https?://(?!www\.w3\.org/)|(?:url\(|@import|\bsrc\s*=|\bfrom|\bimport\(?)\s*[\"']?//\w")
LOADING_MARKUP = re.compile(
    r"(?:\bsrc\s*=|<link\b[^>]*\bhref\s*=|@import|url\()\s*(?:url\()?[\"']?\s*(?:https?://|//\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """One file of the repository: its path from the root, with forward slashes, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path, self.text)


@cache
def parsed(path: str, text: str) -> ast.Module:
    """Return the syntax tree, which several rules use."""
    return ast.parse(text, path)


Violations = Iterator[tuple[int, str]]
Rule = Callable[[Source], Violations]


def sources(*patterns: str) -> list[Source]:
    """Return the files that match, except those in hidden folders; the text of a notebook is its Python code."""
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    relative = sorted(path.relative_to(ROOT) for path in paths)
    return [
        Source(
            path.as_posix(),
            notebook_code(ROOT / path) if path.suffix == ".ipynb" else (ROOT / path).read_text("utf-8"),
        )
        for path in relative
        if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    ]


def notebook_code(path: Path) -> str:
    """Return the code cells of a notebook, one after the other, without magics and shell lines."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def imported_names(source: Source) -> Iterator[tuple[int, str, str]]:
    """Yield (line, local name, full dotted name) of every import, with relative imports resolved."""
    package = source.path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, local, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{module}.{alias.name}"


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call of a dotted name and its full name: ``t.load()`` is torch.load if torch is imported as t."""
    known = {local: full if local != full.partition(".")[0] else local for _, local, full in imported_names(source)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            first, dot, rest = name.partition(".")
            yield node, known.get(first, first) + dot + rest


def dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for a chain of attributes, and None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Yield (line, full dotted name) of every import, by a statement or by a call with a literal name."""
    for line, _, full in imported_names(source):
        yield line, full
    for node, name in calls(source):
        if name in IMPORTING_CALLS and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def no_nnsight(source: Source) -> Violations:
    """Code outside the packages uses nnsight only through jola; a contract says the same for the packages."""
    for line, name in imports(source):
        if name.partition(".")[0] == "nnsight":
            yield line, f"imports {name}; use jola"


def no_unpickling(source: Source) -> Violations:
    """Unpickling a file runs the code in it; files are safetensors, JSON or Parquet."""
    for line, name in imports(source):
        if name.partition(".")[0] in UNPICKLERS or name in UNPICKLING_CALLS:
            yield line, f"imports {name}"
    for node, name in calls(source):
        allows = any(
            keyword.arg == "allow_pickle" and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
            for keyword in node.keywords
        )
        # PyTorch's own reader of tensors runs no code.
        tensors_only = name == "torch.load" and any(
            keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            for keyword in node.keywords
        )
        if (name in UNPICKLING_CALLS and not tensors_only) or allows:
            yield node.lineno, f"calls {name}{' with allow_pickle' if allows else ''}"


def no_backward_on_the_line_of_a_with(source: Source) -> Violations:
    """nnsight mistakes a `with` on the line of a backward call for a trace: the call silently does nothing."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.With | ast.AsyncWith):
            continue
        header_end = max(item.context_expr.end_lineno or node.lineno for item in node.items)
        for statement in node.body:
            calls_backward = any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in ast.walk(statement))
            if statement.lineno == header_end and calls_backward:
                yield statement.lineno, "calls backward on the line of its with; give it a line of its own"


def no_long_file(source: Source) -> Violations:
    """A file that cannot be read in one sitting should be two files."""
    lines = len(source.text.splitlines())
    if lines > MAX_LINES:
        yield lines, f"has {lines} lines, more than {MAX_LINES}"


def no_address_in_an_asset(source: Source) -> Violations:
    """Scripts and styles of the interface need no network and contact no server."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if ADDRESS.search(line):
            yield number, f"names an address: {line.strip()[:80]}"


def no_markup_that_loads(source: Source) -> Violations:
    """HTML in Python code loads nothing from the network; links that a reader may follow are allowed."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LOADING_MARKUP.search(node.value):
            yield node.lineno, "loads something from the network"
    for node, name in calls(source):
        if name.rpartition(".")[2] == "GoogleFont":
            yield node.lineno, "loads a font from the network"


def public_things_are_documented(source: Source) -> Violations:
    """Every public module, class and function of jola has a docstring."""
    if not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring"
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            overload = any((dotted(d) or "").rpartition(".")[2] == "overload" for d in node.decorator_list)
            if not node.name.startswith("_") and not overload and not ast.get_docstring(node):
                yield node.lineno, f"{node.name} has no docstring"


PACKAGES = ("jola", "workbench")
PRODUCT = ("jola/**/*.py", "workbench/**/*.py", "app.py")
EVERYTHING = (*PRODUCT, "tests/**/*.py", "tools/**/*.py", "benchmarks/**/*.py", "notebooks/**/*.ipynb")

RULES: list[tuple[Rule, tuple[str, ...]]] = [
    (no_nnsight, ("app.py", "tools/**/*.py", "notebooks/**/*.ipynb")),
    (no_unpickling, (*PRODUCT, "tools/**/*.py", "notebooks/**/*.ipynb")),
    (no_backward_on_the_line_of_a_with, EVERYTHING),
    (
        no_long_file,
        tuple(f"{package}/**/*.{kind}" for package in PACKAGES for kind in ("py", "js", "css", "html")),
    ),
    (no_address_in_an_asset, tuple(f"workbench/**/*.{kind}" for kind in ("js", "css", "html", "svg"))),
    (no_markup_that_loads, ("workbench/**/*.py", "app.py")),
    (public_things_are_documented, ("jola/**/*.py",)),
]


@pytest.mark.parametrize(("rule", "patterns"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_rule(rule: Rule, patterns: tuple[str, ...]) -> None:
    found = sources(*patterns)
    assert found, f"no file matches {patterns}"
    violations = [f"{source.path}:{line}: {what}" for source in found for line, what in rule(source)]
    assert not violations, "\n".join([rule.__doc__ or "", *violations])


def test_contracts_of_imports() -> None:
    """The layers and the forbidden imports under ``tool.importlinter`` in pyproject.toml."""
    # In a separate process, because import-linter disables all existing loggers.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_no_circle_of_imports() -> None:
    """Imports at run time, including those inside functions, have no cycles."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    try:
        TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_runs_and_records_are_read_without_pytorch() -> None:
    """Checks the modules whose imports inside functions the contract exempts."""
    program = """
import importlib, pkgutil, sys
for name in ("torch", "transformers"):
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError
NEEDS_TENSORS = {
    "jola.data.examples", "jola.runs.adapter_source", "jola.runs.archive", "jola.runs.contents",
    "jola.system.distributed",
}
for package in ("jola.data", "jola.edits.masks", "jola.runs", "jola.system"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        if module.name not in NEEDS_TENSORS:
            importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_jola_imports_without_the_interface() -> None:
    """Every module of jola can be imported where gradio and plotly are not installed."""
    program = """
import importlib, pkgutil, sys
for name in ("gradio", "plotly", "workbench"):
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError
import jola
from jola.system.startup import quick_imports
with quick_imports():
    for module in pkgutil.walk_packages(jola.__path__, "jola."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_every_imported_package_is_declared() -> None:
    """An indirect dependency may disappear."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = [requirement for extra in ("lm-eval", "metrics", "quantization", "ray") for requirement in extras[extra]]
    requirements = [*project["dependencies"], *optional]
    declared = {re.split(r"[^\w.-]", text)[0].lower().replace("-", "_") for text in requirements}
    known = declared | sys.stdlib_module_names | {"jola", "workbench"}
    undeclared = [
        f"{source.path}:{line}: {name}"
        for source in sources(*PRODUCT)
        for line, name in imports(source)
        if (top := name.partition(".")[0]) and DISTRIBUTIONS.get(top, top) not in known
    ]
    assert not undeclared, "\n".join(undeclared)


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == jola.__version__


VIOLATIONS: list[tuple[Rule, str, str]] = [
    (no_nnsight, "tools/a.py", "from nnsight.intervention import x"),
    (no_nnsight, "app.py", "__import__('nnsight')"),
    (no_nnsight, "app.py", "from importlib import import_module\nimport_module('nnsight')"),
    (no_unpickling, "jola/a.py", "import pickle"),
    (no_unpickling, "jola/a.py", "import torch as t\nt.load('x')"),
    (no_unpickling, "jola/a.py", "from torch import load"),
    (no_unpickling, "workbench/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
    (no_backward_on_the_line_of_a_with, "tests/a.py", "with lock: loss.backward()"),
    (no_backward_on_the_line_of_a_with, "tests/a.py", "with a(\n    1\n): x = 1; loss.backward()"),
    (no_long_file, "jola/a.py", "x = 1\n" * (MAX_LINES + 1)),
    (no_address_in_an_asset, "workbench/a.js", "import x from 'https://example.org/x.js'"),
    (no_address_in_an_asset, "workbench/a.css", "@import '//example.org/x.css'"),
    (no_address_in_an_asset, "workbench/a.css", "a { background: url(//example.org/x.png) }"),
    (no_markup_that_loads, "workbench/a.py", "x = '<script src=\"https://example.org/x.js\"></script>'"),
    (no_markup_that_loads, "workbench/a.py", "x = f'<link rel=stylesheet href=https://{host}/x.css>'"),
    (no_markup_that_loads, "workbench/a.py", "import gradio as gr\ngr.themes.GoogleFont('Inter')"),
    (public_things_are_documented, "jola/a.py", "x = 1"),
    (public_things_are_documented, "jola/a.py", "'''A module.'''\ndef f(): ..."),
    (public_things_are_documented, "jola/a.py", "'''A module.'''\nclass C: ..."),
]

ALLOWED: list[tuple[Rule, str, str]] = [
    (no_nnsight, "tools/a.py", "from jola.model.tracing import x"),
    (no_unpickling, "jola/a.py", "import torch\ntorch.load('x', weights_only=True)"),
    (no_unpickling, "jola/a.py", "import json\njson.load(open('x'))\nnp.load('x', allow_pickle=False)"),
    (no_backward_on_the_line_of_a_with, "tests/a.py", "with lock:\n    loss.backward()"),
    (no_backward_on_the_line_of_a_with, "tests/a.py", "with lock: loss.item()"),
    (
        no_address_in_an_asset,
        "workbench/a.js",
        "// a comment\nconst NS = 'http://www.w3.org/2000/svg'; a = b // c",
    ),
    (no_markup_that_loads, "workbench/a.py", "x = '<a href=\"https://arxiv.org\">paper</a>'"),
    (public_things_are_documented, "jola/a.py", "'''A module.'''\ndef _f(): ..."),
]


@pytest.mark.parametrize(("rule", "path", "text"), VIOLATIONS)
def test_rule_finds_a_violation(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_rule_allows_what_is_right(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))
