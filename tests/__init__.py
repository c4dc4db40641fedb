"""Tests of the repository: `tests/jola` and `tests/workbench` mirror the packages, `tests/browser` drives the page."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The root folder of the repository."""
DATA = ROOT / "tests" / "data"
"""The folder of files that tests read."""
