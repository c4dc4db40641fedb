"""What the listeners of all places have in common."""

from typing import Any

import gradio as gr

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event of the page: no progress bar, and not an endpoint that programs can call."""

DARK = """(...values) => {
  values[values.length - 1] = document.body.classList.contains("dark");
  return values;
}"""
"""Script that sets the last input of an event to whether the page is dark: figures are drawn to match."""


def said(event: gr.EventData) -> dict[str, Any]:
    """What an event of a component says. A page may send anything: empty for all but an object."""
    return event._data if isinstance(event._data, dict) else {}


def text_of(event: gr.EventData, name: str) -> str:
    """What an event of a component says under a name; empty if it says nothing there."""
    return str(said(event).get(name, ""))
