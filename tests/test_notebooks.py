"""The notebooks: each runs on a tiny model, uses only public names, and contains its outputs."""

import ast
import base64
import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from plotly.basedatatypes import BaseFigure

import jola
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits
from tools import notebooks, pictures

NOTEBOOKS = {path.stem: path for path in notebooks.notebooks()}
LARGEST = 400_000
"""Maximum size of a notebook in bytes; larger ones display slowly and make the Git history large."""

SMALL: dict[str, dict[str, Any]] = {
    "01_train_and_watch_the_gates": {"TRAIN_SIZE": 8, "VALIDATION_SIZE": 4, "TEST_SIZE": 4, "EPOCHS": 2},
    "02_what_does_an_edit_do": {"TEST_SIZE": 4, "KEPT": 2},
    "03_compare_selectors": {"TRAIN_SIZE": 8, "VALIDATION_SIZE": 4, "TEST_SIZE": 4, "EPOCHS": 1, "K": 4},
    "04_your_own_data_and_model": {"TRAIN_SIZE": 8, "TEST_SIZE": 8, "EPOCHS": 1},
    "05_export_and_load_elsewhere": {"DTYPE": "float32"},
    "06_which_method_for_my_data": {"TRAIN_SIZE": 8, "VALIDATION_SIZE": 4, "TEST_SIZE": 4, "EPOCHS": 1},
    "07_a_small_paper_table": {"SIZES": (4, 8), "SEEDS": (42,), "VALIDATION_SIZE": 4, "TEST_SIZE": 4, "EPOCHS": 1},
}
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|var|opt|usr|mnt)/|[A-Z]:\\\\")
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")


def markdown(notebook: dict[str, Any]) -> Iterator[str]:
    return (notebooks.source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def outputs(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (output for cell in notebook["cells"] for output in cell.get("outputs", ()))


def shown_text(notebook: dict[str, Any]) -> str:
    texts = []
    for output in outputs(notebook):
        texts += ["".join(output.get("text", ""))]
        texts += ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def run(cells: list[str]) -> list[Any]:
    """Run cells in one namespace, as a kernel does, and return the values of their last expressions."""
    names: dict[str, Any] = {"__name__": "__main__"}
    values = []
    for number, text in enumerate(cells):
        body, place = ast.parse(text).body, f"<cell {number}>"
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), place, "exec"), names)
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), place, "eval"), names))
    return values


@pytest.fixture
def small_settings(tiny_folder: Path, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return a function that gives the settings of a notebook for a tiny model and a few examples."""
    task = tmp_path / "sentiment"
    task.mkdir()
    for part in ("train", "validation", "test"):
        rows = [(f"A {word} film, {part} {i}.", label) for i in range(6) for word, label in
                (("warm", "positive"), ("dull", "negative"))]  # fmt: skip
        lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
        (task / f"{part}.jsonl").write_text("\n".join(lines), "utf-8")
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32")
    spread_edits(model)
    model.save_pretrained(tmp_path / "adapter")
    places = {"MODEL": str(tiny_folder), "TASK": str(task), "ADAPTER": str(tmp_path / "adapter")}

    def settings(name: str) -> dict[str, Any]:
        known = " ".join(text for text in notebooks.code(notebooks.read(NOTEBOOKS[name]))[:1])
        needed = {key: value for key, value in places.items() if f"{key} = " in known}
        # If the setting is empty, the notebook contains its own examples, which must be tested.
        return {key: value for key, value in needed.items() if f'{key} = ""' not in known} | SMALL[name]

    return settings


def test_there_is_a_case_for_every_notebook() -> None:
    assert list(NOTEBOOKS) == list(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(
    name: str, small_settings: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(notebooks.FOLDER)
    values = run(notebooks.code(notebooks.read(NOTEBOOKS[name]), **small_settings(name)))
    assert len(values) > 3
    drawn = [value for value in values if isinstance(value, BaseFigure)]
    assert all(figure.data for figure in drawn)  # no figures that only say why they are empty
    for value in values:
        repr(value)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_uses_public_names(name: str) -> None:
    cells = notebooks.code(notebooks.read(NOTEBOOKS[name]))
    text = "\n".join(cells)
    assert not re.search(r"^\s*[%!]", text, re.MULTILINE)  # it is a Python program too
    for node in ast.walk(ast.parse(text)):
        named = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ImportFrom):
            named += [*str(node.module).split("."), *(alias.name for alias in node.names)]
            if node.module == "jola":
                named += [f"_{a.name}" for a in node.names if not _is_public(a.name)]
            assert not str(node.module).startswith("workbench.") or str(node.module).startswith("workbench.figures")
            assert node.module != "workbench" or [alias.name for alias in node.names] == ["figures"]
        assert not [word for word in named if word.startswith("_")]


def _is_public(name: str) -> bool:
    return name in jola.__all__ or (Path(jola.__file__).parent / name / "__init__.py").is_file()


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_shows_what_it_gives(name: str) -> None:
    path = NOTEBOOKS[name]
    notebook = notebooks.read(path)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [notebooks.is_parameters(cell) for cell in cells].count(True) == 1
    kinds = {output["output_type"] for output in outputs(notebook)}
    assert kinds <= {"stream", "execute_result", "display_data"}  # no "error"
    assert path.stat().st_size < LARGEST
    text = path.read_text("utf-8")
    assert not PATH_OF_A_MACHINE.search(text)
    assert text == json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"  # as the tool writes it
    for output in outputs(notebook):
        data = output.get("data", {})
        assert notebooks.PLOTLY not in data and "application/javascript" not in data
        assert "<script" not in "".join(data.get("text/html", ""))
        if "image/png" in data:
            assert Image.open(BytesIO(base64.b64decode(data["image/png"]))).size[0] == pictures.WIDTH * pictures.SCALE


@pytest.mark.parametrize("name", SMALL)
def test_figures_are_pictures_and_numbers_in_the_text_are_those_shown(name: str) -> None:
    notebook = notebooks.read(NOTEBOOKS[name])
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) or name.startswith("05")
    there = [float(number) for number in NUMBER.findall(shown_text(notebook) + "\n".join(notebooks.code(notebook)))]
    told = [number for text in markdown(notebook) for number in NUMBER.findall(text)]
    for number in told:
        digits = len(number.partition(".")[2])
        assert any(round(value, digits) == float(number) for value in there), number


@pytest.mark.parametrize("name", SMALL)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    for text in markdown(notebooks.read(NOTEBOOKS[name])):
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("http") or (notebooks.FOLDER / target).exists(), target


def test_other_settings_take_the_place_of_those_in_the_notebook() -> None:
    notebook = {
        "cells": [
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["A, B = 1, 2\n", "C = 'x'"]},
            {"cell_type": "code", "metadata": {}, "source": ["A, C"]},
        ]
    }
    assert run(notebooks.code(notebook, A=5)) == [(5, "x")]
    with pytest.raises(KeyError, match="no setting D; it has A, B, C"):
        notebooks.code(notebook, D=1)
