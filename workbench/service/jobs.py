"""Training runs as processes of their own, started with the command that a shell user types.

Nothing here depends on being the parent of the training: which run is at work, and which ones wait, is read from the
run directories and from one file beside them, so that an app that was restarted, or a second one, sees, pauses and
cancels the same runs and goes on with the same queue.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.state import UNFINISHED
from jola.runs.store import RunStore
from jola.system.files import json_bytes, replace_file
from jola.system.processes import own_identity, process_alive
from workbench.service import detached
from workbench.service.detached import last_sentence
from workbench.service.waiting import Waiting

TRAIN_COMMAND = (sys.executable, "-m", "jola", "train")
PAUSE_FILE = "pause"
"""As in `jola.training.follower`, which takes seconds to import."""
RESUMABLE = frozenset({"paused", "killed", "cancelled", "failed"})
"""States from which a run can go on with its last checkpoint."""
_LOOK_SECONDS = 1.0


class Jobs:
    """Starts, finds, pauses and cancels the training runs of a store.

    Args:
        store: Where the runs are.
        command: What trains: the command line ``jola train``.
        at_once: Runs that train at the same time; the others wait.
        check: Raises `InputError` for settings that this app may not train with.
        held: Whether the waiting runs have to wait for something that is no run.
    """

    def __init__(
        self,
        store: RunStore,
        command: Sequence[str] = TRAIN_COMMAND,
        at_once: int = 1,
        check: Callable[[RunConfig], None] = lambda config: None,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.command = tuple(command)
        self.at_once = at_once
        self.check = check
        self.held = held
        self.waiting = Waiting(store)
        self._cancelled: set[str] = set()
        self._attending: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._news = threading.Event()

    def running(self) -> list[Run]:
        """The runs that a process is working on, whoever started it, newest first."""
        return [run for run in self.store.list() if run.alive]

    def active(self) -> Run | None:
        """The newest run that a process is working on, whoever started it."""
        return next((run for run in self.store.list() if run.alive), None)

    def start(self, config: RunConfig) -> Run:
        """Make a run that trains in a process of its own: at once, or when it is first in the queue.

        `InputError` when a setting cannot or may not be used, or the process cannot be started.
        """
        self.check(config.validate())
        with self.waiting.locked():
            run = Run(self.store.root / self.store.new_id(config.data.task))
            config = replace(config, training=replace(config.training, output=str(run.path)))
            content = {**config.to_dict(), "created": time.time()}
            replace_file(run.path / "config.json", json_bytes(content, indent=2), durable=True)
            self.waiting.add(run)
        self._next()
        return self._started(run)

    def resume(self, id: str) -> Run:
        """Let a paused, killed, cancelled or failed run go on: at once, or when it is first in the queue."""
        with self.waiting.locked():
            run = self.store.get(id)
            state = run.state
            if state not in RESUMABLE:
                raise InputError(f"The run {id} is {state}; only one that was interrupted can go on.")
            (run.path / PAUSE_FILE).unlink(missing_ok=True)
            self.check(run.run_config())  # damaged settings are told now and not when its turn comes
            self._cancelled.discard(id)
            self.waiting.add(run)
        self._next()
        return self._started(run)

    def pause(self, id: str) -> None:
        """Ask a run to pause at its next step; nothing happens when no process is at work on it."""
        run = self.store.get(id)
        if run.alive:
            (run.path / PAUSE_FILE).touch()

    def cancel(self, id: str) -> None:
        """Take a run out of the queue, or ask it to stop at its next step; nothing happens when it has ended already.

        A run that had begun before it was queued or paused is as it was: resuming goes on with it.
        """
        run = self.store.get(id)
        with self.waiting.locked():
            if run.status()["state"] in ("queued", "paused"):
                self.waiting.take(id)
                begun = run.status()["step"] > 0
                message = "" if begun else "Taken out of the queue before training began."
                run.write_status(state="cancelled", message=message)
                return
        status = run.status()
        pid, created = status["pid"], status["pid_created"]
        if status["state"] not in UNFINISHED or not isinstance(pid, int) or pid == os.getpid():
            return
        if process_alive(pid, created):
            self._cancelled.add(id)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def wait(self, id: str, seconds: float) -> bool:
        """Whether the run ended within ``seconds``."""
        end = time.monotonic() + seconds
        run = self.store.get(id)
        while run.alive or run.state == "queued":
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def continue_queue(self) -> None:
        """Take up the runs that wait and are not in the queue: an earlier app left them, or they were brought back."""
        with self.waiting.locked():
            self.waiting.recover()
        if self.waiting.ids():
            self._attend_queue()

    # Starting what is next

    def _started(self, run: Run) -> Run:
        status = run.status()
        if status["state"] == "failed":
            raise InputError(status["message"])
        if status["state"] == "queued":
            self._attend_queue()
        return run

    def _next(self) -> None:
        """Start as many of the waiting runs as there is room for."""
        with self.waiting.locked():
            ids = self.waiting.ids()
            room = self.at_once - len(self.running()) if ids and not self.held() else 0
            for id in ids:
                if room <= 0:
                    break
                run = Run(self.store.root / id)
                try:
                    run.write_status(state="starting", **own_identity())
                except FileNotFoundError:  # deleted a moment ago
                    continue
                self.waiting.take(id)
                self._launch(run)
                room -= 1

    def _launch(self, run: Run) -> None:
        """Start the process of a run that was made already, which is what ``--resume`` is for."""
        try:
            config = run.run_config()
            self.check(config)  # an app that is open to fewer models may go on with the queue of an earlier one
            flags = [*_in_place(config, run).flags(), "--resume"]
            process, identity = detached.start([*self.command, *flags], run.log_path)
        except InputError as error:
            run.write_status(state="failed", message=str(error))
            return
        except (OSError, ValueError) as error:  # of a text that no command line can hold
            run.write_status(state="failed", message=f"The training process could not be started: {error}.")
            return
        if identity:  # of one that ended at once `_attend` says why
            run.write_status(**identity)
        threading.Thread(target=self._attend, args=(run, process), name=f"attend-{run.id}", daemon=True).start()

    def _attend(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        """Wait for the process, and write down how it ended if it could not do so itself."""
        code = process.wait()
        # Under the lock: somebody who lets the run go on at this moment does so before or after, and neither is lost.
        with self.waiting.locked():
            status = run.status()
            if status["state"] in UNFINISHED and status["pid"] in (process.pid, os.getpid()):
                if run.id in self._cancelled:
                    run.write_status(state="cancelled", message="Cancelled before training began.")
                elif code >= 0:
                    silent = f"The training process ended with exit code {code} and said nothing."
                    run.write_status(state="failed", message=last_sentence(run) or silent)
                elif status["pid"] == os.getpid():
                    run.write_status(state="failed", message=f"The training process was ended by signal {-code}.")
        self._news.set()

    def _attend_queue(self) -> None:
        """See to it that a thread starts the waiting runs when there is room for them."""
        with self._thread_lock:
            if self._attending is None or not self._attending.is_alive():
                self._attending = threading.Thread(target=self._work_off, name="queue", daemon=True)
                self._attending.start()

    def _work_off(self) -> None:
        while True:
            with suppress(InputError, OSError):  # a full disk now may not be one later
                self._next()
            # Under the lock, so that a run that is queued at this moment finds the thread alive or starts another.
            with self._thread_lock:
                if not self.waiting.ids():
                    self._attending = None
                    return
            # The end of a run that another app started brings no news.
            self._news.wait(_LOOK_SECONDS)
            self._news.clear()


def _in_place(config: RunConfig, run: Run) -> RunConfig:
    """The settings with the directory of the run where it is now."""
    return replace(config, training=replace(config.training, output=str(run.path)))
