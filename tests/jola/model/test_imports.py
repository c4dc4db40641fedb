"""Imports that must still work after nnsight has changed every Python object."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "imports",
    [
        "import jola.model, nnsight",
        "from jola.remote import RemoteModel",
        "import nnsight; from jola import JoLAModel",
        "import nnsight; from jola.remote import RemoteModel",
    ],
)
def test_an_event_loop_begins_after_nnsight_was_imported(imports: str) -> None:
    """Like a program that loads a model and then serves a page or calls a server."""
    program = f"{imports}; import anyio; anyio.run(anyio.sleep, 0); print('ran')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert ended.stdout.split() == ["ran"], ended.stderr[-2000:]
