"""What the listeners of all places have in common."""

from typing import Any

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event of the page: no progress bar, and not an endpoint that programs can call."""

DARK = """(...values) => {
  values[values.length - 1] = document.body.classList.contains("dark");
  return values;
}"""
"""Script that sets the last input of an event to whether the page is dark: figures are drawn to match."""
