"""The lower bounds in pyproject.toml: each package has one, and they include those of SECURITY.md."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import ROOT
from tools.lowest import constraints

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_each_package_is_fixed_at_a_version_that_its_bounds_admit() -> None:
    every = [*PROJECT["dependencies"], *(line for group in PROJECT["optional-dependencies"].values() for line in group)]
    fixed = [Requirement(line) for line in constraints(PROJECT, list(PROJECT["optional-dependencies"]))]
    assert len({found.name for found in fixed}) == len(fixed)
    versions = {found.name: str(found.specifier).removeprefix("==") for found in fixed}
    for requirement in map(Requirement, every):
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_a_package_without_a_lower_bound_is_told() -> None:
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound"):
        constraints({"name": "x", "dependencies": ["numpy<3"]}, [])


def test_versions_with_known_holes_are_excluded() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8").partition("## Versions")[2].partition("\n## ")[0]
    told = dict(re.findall(r"`([\w-]+)`\s+below\s+([\d.]*\d)", text))
    assert {"gradio", "transformers", "filelock", "jinja2", "torch"} <= set(told)
    versions = dict(line.split("==") for line in constraints(PROJECT, []))
    for name, version in told.items():
        assert Version(versions[name]) >= Version(version), name
