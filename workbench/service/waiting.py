"""The queue of waiting runs: one small file next to the runs.

``queue.json`` in the run folder lists the ids in order. Whether a run waits depends only on its own status: ids without
a waiting run are ignored, and `Waiting.recover` appends waiting runs that the file does not list.
"""

import time

from jola.runs.ids import is_plain_name
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import json_bytes, read_json, replace_file

QUEUE_FILE = "queue.json"


class Waiting:
    """The waiting runs of a store; all apps and threads that use the same folder see the same queue."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._path = store.root / QUEUE_FILE

    def ids(self) -> list[str]:
        """Return the ids of the waiting runs in order."""
        listed = (read_json(self._path) or {}).get("waiting")
        ids = [id for id in listed if isinstance(id, str) and is_plain_name(id)] if isinstance(listed, list) else []
        return [id for id in dict.fromkeys(ids) if Run(self.store.root / id).status()["state"] == "queued"]

    def place(self, id: str) -> int | None:
        """Return the number of runs before this one; None if it does not wait."""
        ids = self.ids()
        return ids.index(id) if id in ids else None

    def mark(self) -> int:
        """Return a number that changes with the queue, without reading the file."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0

    # Changes; call these methods inside `Turns.locked`.

    def add(self, run: Run) -> None:
        """Append a run to the queue. Its status is written first, so that every run in the queue is waiting."""
        run.write_status(state="queued", message="", pid=None, pid_created=None, queued=time.time(), started=None)
        self._write([*self.ids(), run.id])

    def take(self, id: str) -> None:
        """Remove a run from the queue; the caller writes its status."""
        self._write([other for other in self.ids() if other != id])

    def recover(self) -> None:
        """Append waiting runs that the file does not list, oldest first."""
        known = self.ids()
        lost = [run.id for run in reversed(self.store.list()) if run.state == "queued" and run.id not in known]
        if lost:
            self._write([*known, *lost])

    def _write(self, ids: list[str]) -> None:
        replace_file(self._path, json_bytes({"waiting": ids}), durable=True)
