"""The script that the lists of comparisons and of studies share; the view's own script follows it."""

from pathlib import Path

SCRIPT = (Path(__file__).parent / "work_list.js").read_text(encoding="utf-8")
