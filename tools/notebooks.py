"""Execute the notebooks, and with ``--store`` save their outputs in them.

    python -m tools.notebooks [--store] [notebooks/01_train_and_watch_the_gates.ipynb …]

Each notebook runs in its own kernel, in its own folder; an exception in a cell ends the command. Stored outputs are
text, tables, and figures as pictures, drawn by the Chromium of the browser tests, so that no scripts are needed.
"""

import argparse
import ast
import base64
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from tools.pictures import WIDTH, Draw, drawing

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"
TIMEOUT = 1200
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def notebooks() -> list[Path]:
    """Return the paths of all notebooks, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    """Read a notebook as JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict[str, Any]) -> str:
    """Return the text of a cell."""
    return "".join(cell["source"])


def is_parameters(cell: dict[str, Any]) -> bool:
    """Return whether a cell contains the settings of its notebook."""
    return cell["cell_type"] == "code" and "parameters" in cell["metadata"].get("tags", [])


def code(notebook: dict[str, Any], **settings: Any) -> list[str]:
    """Return the code cells, with other values for settings in the cell that is tagged ``parameters``.

    Raises:
        KeyError: The notebook does not have a setting.
    """
    cells = [(is_parameters(cell), source(cell)) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    known = {name for tagged, text in cells if tagged for name in _settings(text)}
    if unknown := set(settings) - known:
        raise KeyError(f"The notebook has no setting {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}.")
    changed = "".join(f"\n{name} = {value!r}" for name, value in settings.items())
    return [text + changed if tagged else text for tagged, text in cells]


def _settings(text: str) -> list[str]:
    """Return the names that the assignments of a cell define."""
    return [
        name.id
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    ]


def execute(path: Path) -> dict[str, Any]:
    """Execute a notebook and return it with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised an exception.
    """
    import nbformat
    from nbclient import NotebookClient

    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    return json.loads(nbformat.writes(notebook))


def tidy(notebook: dict[str, Any]) -> dict[str, Any]:
    """Remove from a notebook what differs between runs or machines, and replace figures by pictures."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    with drawing() as draw:
        for cell in notebook["cells"]:
            cell["metadata"] = {name: value for name, value in cell["metadata"].items() if name == "tags"}
            if cell["cell_type"] == "code":
                kept = (o for o in cell["outputs"] if not (o["output_type"] == "stream" and o["name"] == "stderr"))
                cell["outputs"] = [_tidy_output(output, draw) for output in kept]
    return notebook


def _tidy_output(output: dict[str, Any], draw: Draw) -> dict[str, Any]:
    data = output.get("data", {})
    if PLOTLY in data:
        picture = base64.b64encode(draw(data[PLOTLY])).decode()
        size = {"image/png": {"height": data[PLOTLY]["layout"]["height"], "width": WIDTH}}
        return output | {"data": {"image/png": picture, "text/plain": ["Figure"]}, "metadata": size}
    if "text/plain" in data:
        data["text/plain"] = _ADDRESS.sub("", "".join(data["text/plain"])).splitlines(keepends=True)
    return output


def store(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook as Jupyter does."""
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Execute the named notebooks, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="*", type=Path, default=notebooks())
    parser.add_argument("--store", action="store_true", help="save the outputs in the notebooks")
    options = parser.parse_args()
    for path in options.notebook:
        print(f"==> {path.name}", flush=True)
        began = time.monotonic()
        notebook = execute(path)
        if options.store:
            store(path, tidy(notebook))
        print(f"    {time.monotonic() - began:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
