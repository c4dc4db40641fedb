"""What can still be imported once nnsight has changed every Python object."""

import subprocess
import sys


def test_an_event_loop_begins_after_nnsight_was_imported() -> None:
    """As in a program that loads a model and then serves a page or calls a server."""
    program = "import jola.model, nnsight, anyio; anyio.run(anyio.sleep, 0); print('ran')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert ended.stdout.split() == ["ran"], ended.stderr[-2000:]
