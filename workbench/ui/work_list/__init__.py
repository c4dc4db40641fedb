"""What the views of comparisons and of studies share: a script and a style, which their own follow, and an answer."""

import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.ui import BASICS

_HERE = Path(__file__).parent
SCRIPT = BASICS + (_HERE / "work_list.js").read_text(encoding="utf-8")
_STYLE = (_HERE / "work_list.css").read_text(encoding="utf-8")


def style(prefix: str) -> str:
    """The style of a view whose classes begin with ``prefix``."""
    return _STYLE.replace("wl", prefix)


def removal(id: str, shown: str, sentence: str) -> Any:
    """What the listener of ``remove`` returns for the view: the id of the work to show, or that ``id`` is still there.

    Args:
        sentence: Why the work was not removed; empty if it was.
    """
    # The serial number tells a second refusal from the first.
    return gr.HTML(refused={"id": id, "serial": secrets.token_hex(8)}) if sentence else shown
