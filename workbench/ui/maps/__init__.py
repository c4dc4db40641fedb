"""The layer × unit map of the edits: markup, script and style.

The script only draws and emits events; `workbench.train.run_view` embeds it in the Train tab and sends it data.
"""

from pathlib import Path

_HERE = Path(__file__).parent

MARKUP = (_HERE / "gate_map.html").read_text(encoding="utf-8")
_SCRIPTS = ("cividis.js", "gate_codes.js", "axes.js", "gate_map.js", "gate_table.js")
SCRIPT = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
STYLE = (_HERE / "gate_map.css").read_text(encoding="utf-8")
