"""Helpers for the event listeners of all tabs."""

from typing import Any

import gradio as gr

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event of the page: no progress bar, and not an endpoint that programs can call."""

DARK = """(...values) => {
  values[values.length - 1] = document.body.classList.contains("dark");
  return values;
}"""
"""Script that sets the last input of an event to whether the page is dark, so that figures match."""


def said(event: gr.EventData) -> dict[str, Any]:
    """Return the data of an event of a component; empty if it is not an object, because a page may send anything."""
    return event._data if isinstance(event._data, dict) else {}


def text_of(event: gr.EventData, name: str) -> str:
    """Return an entry of the data of an event as text; empty if it is missing."""
    return str(said(event).get(name, ""))
