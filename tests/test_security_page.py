"""SECURITY.md: each row of its table names tests that exist."""

import ast
import re

import pytest

from tests import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
][1:]


def test_there_are_rows() -> None:
    assert len(ROWS) > 15 and {len(row) for row in ROWS} == {3}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_row_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", row[2])
    assert named, "no test is named"
    for file, name in named:
        (path,) = ROOT.glob(f"tests/**/{file}")
        tree = ast.parse(path.read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined if name else any(found.startswith(("test", "Test")) for found in defined), (file, name)
