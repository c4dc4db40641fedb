"""The order in which waiting runs train: one small file beside the runs, and nothing else.

``queue.json`` in the run folder holds the ids, first in line first. Whether a run waits is what its own status says, so
that an id without such a run means nothing, and a run that the file does not name waits at the end of the line.
"""

import time

from jola.runs.ids import is_plain_name
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import json_bytes, read_json, replace_file

QUEUE_FILE = "queue.json"


class Waiting:
    """The waiting runs of a store; every app and every thread that looks at the same folder sees the same line."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._path = store.root / QUEUE_FILE

    def ids(self) -> list[str]:
        """Ids of the runs that wait, first in line first."""
        listed = (read_json(self._path) or {}).get("waiting")
        ids = [id for id in listed if isinstance(id, str) and is_plain_name(id)] if isinstance(listed, list) else []
        return [id for id in dict.fromkeys(ids) if Run(self.store.root / id).status()["state"] == "queued"]

    def place(self, id: str) -> int | None:
        """How many runs are before this one; None when it does not wait."""
        ids = self.ids()
        return ids.index(id) if id in ids else None

    def mark(self) -> int:
        """A number that changes with the line, for the price of a look at the file."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0

    # Changes, which are made in `Turns.locked`.

    def add(self, run: Run) -> None:
        """Put a run at the end of the line. Its status is written first: a run is never in line and not waiting."""
        run.write_status(state="queued", message="", pid=None, pid_created=None, started=time.time())
        self._write([*self.ids(), run.id])

    def take(self, id: str) -> None:
        """Take a run out of the line; its status is the caller's to write."""
        self._write([other for other in self.ids() if other != id])

    def recover(self) -> None:
        """Put runs that wait and that the file does not name at the end of the line, the oldest first."""
        known = self.ids()
        lost = [run.id for run in reversed(self.store.list()) if run.state == "queued" and run.id not in known]
        if lost:
            self._write([*known, *lost])

    def _write(self, ids: list[str]) -> None:
        replace_file(self._path, json_bytes({"waiting": ids}), durable=True)
