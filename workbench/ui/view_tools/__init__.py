"""The toolbar of a view: save the image, save the data as CSV, and show the Python code that reproduces it.

Everything runs in the browser, with data that the view already has. The server writes nothing.
"""

import json
from pathlib import Path

import gradio as gr

_HERE = Path(__file__).parent

STYLE = (_HERE / "view_tools.css").read_text(encoding="utf-8")
_MARKUP = (_HERE / "view_tools.html").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "view_tools.js").read_text(encoding="utf-8")


def view_tools(elem_id: str) -> gr.HTML:
    """Create the component. It must be in the same ``.jw-view`` as the figure or the ``.jw-picture`` that it saves.

    Its value comes from `tools_value`, or is None while there is nothing to save.
    """
    return gr.HTML(
        None,
        html_template=_MARKUP,
        js_on_load=f"(() => {{\n{_SCRIPT}\n}})();",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="jw-tools",
    )


def tools_value(name: str, csv: str = "", code: str = "", taken: str = "") -> str:
    """Return a value for `view_tools`: the name of the files, the data as CSV, and the code; empty ones are hidden.

    ``taken`` is JSON to copy and to save, for a view without an image.

    The value is JSON text, because gradio sends the outputs of a generator as differences, which it applies to the
    object of the component; an object with keys could lose them before it is shown.
    """
    return json.dumps({"name": name, "csv": csv, "code": code, "json": taken})
