"""Shared parts of the page: markup, forms, fields, maps, view tools, scripts and style."""

from pathlib import Path

BASICS = (Path(__file__).parent / "basics.js").read_text(encoding="utf-8")
"""Common beginning of the scripts of all views."""
