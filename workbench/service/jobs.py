"""The training runs of a store in separate processes, started with the same command as in a shell.

Runs share the computer with other work (`Turns`): runs that are requested while other work is running wait in a queue,
in the order of request. With several accelerators, one run trains on each (`workbench.service.devices`).
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.state import UNFINISHED, forget_pause, request_pause
from jola.runs.store import RunStore
from jola.settings import DEVICE_VARIABLE
from jola.system.files import json_bytes, removed_on_error, replace_file
from workbench.service.devices import AUTO, CPU, Places, accelerators
from workbench.service.processes import End, Kind, Processes, Turns, at_work, last_sentence, wait_until
from workbench.service.waiting import Waiting

TRAIN_COMMAND = (sys.executable, "-m", "jola", "train")
RESUMABLE = frozenset({"paused", "killed", "cancelled", "failed"})
"""States from which a run can be resumed from its last checkpoint."""
_NOUN = "training"
_LOOK_SECONDS = 1.0


class Jobs:
    """Starts, finds, pauses and cancels the training runs of a store.

    Args:
        store: Store of the runs.
        command: Command line of ``jola train``.
        at_once: Maximum number of concurrent runs on a machine with at most one accelerator.
        check: Raises `InputError` for settings that this app may not train with.
        turns: Shared by all work that must not run at the same time; by default, only by the runs of all apps.
        devices: Returns the accelerators of this machine. With several, one run trains on each at the same time.
    """

    def __init__(
        self,
        store: RunStore,
        command: Sequence[str] = TRAIN_COMMAND,
        at_once: int = 1,
        check: Callable[[RunConfig], None] = lambda config: None,
        turns: Turns | None = None,
        devices: Callable[[], Sequence[str]] = accelerators,
    ) -> None:
        self.store = store
        self.command = tuple(command)
        self.at_once = at_once
        self.check = check
        self.devices = devices
        self.turns = turns or Turns(store.root)
        self.turns.add(_NOUN, self._why_others_wait)
        self.waiting = Waiting(store)
        self._processes = Processes(self.turns, Kind(_NOUN, self._command, _pids, _write_end, self._environment))
        self._unwritten: dict[str, str] = {}
        """Messages of failed runs, by id, that could not be written because the disk was full."""
        self._attending: threading.Thread | None = None
        self._thread_lock = threading.Lock()

    def running(self) -> list[Run]:
        """Return the runs with a running process, including those of other apps and shells, newest first."""
        return [run for run in self.store.list() if _is_at_work(run)]

    def active(self) -> Run | None:
        """Return the newest run with a running process, including those of other apps and shells."""
        return next((run for run in self.store.list() if _is_at_work(run)), None)

    def places(self) -> Places:
        """Return the devices that the running runs use."""
        return Places(self.devices(), self.running(), self.at_once)

    def full(self) -> bool:
        """Whether a run that names no device has to wait for the running ones."""
        return len(self.running()) >= self.at_once and self.places().full

    def start(self, config: RunConfig) -> Run:
        """Create a run that trains in a separate process, at once or when it is first in the queue.

        Raises `InputError` if a setting is invalid or not allowed, or the process cannot be started.
        """
        self.check(config.validate())
        if config.model.device not in (AUTO, CPU):
            self.places().check(config.model.device)
        with self.turns.locked():
            run = Run(self.store.root / self.store.new_id(config.data.task))
            config = replace(config, training=replace(config.training, output=str(run.path)))
            content = {**config.to_dict(), "created": time.time()}
            with removed_on_error(run.path):
                replace_file(run.path / "config.json", json_bytes(content, indent=2), durable=True)
                self.waiting.add(run)
        try:
            self._next()
        except InputError:  # a full disk: do not leave the run in the queue
            with self.turns.locked():
                if not _is_at_work(run):
                    shutil.rmtree(run.path, ignore_errors=True)
            raise
        return self._started(run)

    def resume(self, id: str) -> Run:
        """Resume a paused, killed, cancelled or failed run, at once or when it is first in the queue."""
        with self.turns.locked():
            run = self.store.get(id)
            state = run.state
            if state not in RESUMABLE:
                raise InputError(f"The run {id} is {state}; only interrupted runs can be resumed.")
            forget_pause(run)
            self.check(run.run_config())  # report damaged settings now, not when its turn comes
            self.waiting.add(run)
        try:
            self._next()
        except InputError:  # a full disk: the queue tries again
            self._attend_queue()
            raise
        return self._started(run)

    def pause(self, id: str) -> None:
        """Ask a run to pause at its next step; does nothing if it is not running."""
        run = self.store.get(id)
        if run.alive:
            request_pause(run)

    def cancel(self, id: str) -> None:
        """Remove a run from the queue, or ask it to stop at its next step; does nothing if it has ended already.

        A run that had begun before it was queued or paused keeps its progress and can be resumed.
        """
        run = self.store.get(id)
        with self.turns.locked():
            if run.status()["state"] in ("queued", "paused"):
                begun = run.status()["step"] > 0
                message = "" if begun else "Removed from the queue before training began."
                # First, so that a run that pages no longer show in the queue is cancelled.
                run.write_status(state="cancelled", message=message)
                self.waiting.take(id)
                return
        self._processes.stop(run)

    def wait(self, id: str, seconds: float) -> bool:
        """Wait at most ``seconds`` and return whether the run has ended."""
        run = self.store.get(id)
        return wait_until(lambda: run.state not in UNFINISHED | {"queued"}, seconds)

    def continue_queue(self) -> None:
        """Continue the queue, including waiting runs that it lacks: those left by an earlier app, or restored ones."""
        with self.turns.locked():
            self.waiting.recover()
        if self.waiting.ids():
            self._attend_queue()

    def _why_others_wait(self, noun: str) -> str:
        if self.active() is not None:
            return f"A run is training; start the {noun} when it has ended, or cancel the run in Train."
        if self.waiting.ids():
            return f"A run waits in the queue; start the {noun} when it has ended, or remove the run from the queue."
        return ""

    # Starting the next run

    def _started(self, run: Run) -> Run:
        status = run.status()
        # A process that was started has another PID. It may have failed already, which the page shows with the run.
        if status["state"] == "failed" and status["pid"] in (None, os.getpid()):
            raise InputError(status["message"])
        if status["state"] == "queued":
            self._attend_queue()
        return run

    def _next(self) -> None:
        """Start as many of the waiting runs as there are free places."""
        self.devices()  # may take seconds the first time, so not under the lock
        with self.turns.locked():
            ids = self.waiting.ids()
            if not ids or self.turns.taken(_NOUN):
                return
            places = self.places()
            for id in ids:
                run = Run(self.store.root / id)
                try:
                    device = places.take(run)
                    if device is None:
                        if not places.choice or run.run_config().model.device_map:
                            return  # the runs after it would keep it waiting forever
                        continue
                    self._processes.launch(run, state="starting", device=device)
                except FileNotFoundError:  # it was deleted meanwhile
                    continue
                except InputError as error:
                    self._unwritten[id] = str(error)
                    run.write_status(state="failed", message=str(error))
                    del self._unwritten[id]
                self.waiting.take(id)

    def _command(self, run: Run) -> list[str]:
        """Return the command of a run; ``--resume``, because its folder exists already."""
        config = run.run_config()
        self.check(config)  # an earlier app that allowed more models may have queued it
        config = replace(config, training=replace(config.training, output=str(run.path)))  # it may have been moved
        config = replace(config, model=replace(config.model, shard_base=False))  # use one process
        return [*self.command, *config.flags(), "--resume"]

    @staticmethod
    def _environment(run: Run) -> dict[str, str]:
        """Return the assigned device. It is not a setting, so that other devices can resume and open the run."""
        device = run.status().get("device")
        return {DEVICE_VARIABLE: device} if device else {}

    def _attend_queue(self) -> None:
        """Make sure that a thread is running that starts the waiting runs when there is a free place."""
        with self._thread_lock:
            if self._attending is None or not self._attending.is_alive():
                self._attending = threading.Thread(target=self._work_off, name="queue", daemon=True)
                self._attending.start()

    def _work_off(self) -> None:
        while True:
            with suppress(InputError, OSError):  # a full disk may be temporary
                self._write_failures()
                self._next()
            # Under the lock, so that a run that is queued at this moment finds the thread alive or starts another.
            with self._thread_lock:
                if not self.waiting.ids() and not self._unwritten:
                    self._attending = None
                    return
            # Work that another app started does not set the event when it ends.
            self._processes.news.wait(_LOOK_SECONDS)
            self._processes.news.clear()

    def _write_failures(self) -> None:
        with self.turns.locked():
            for id, message in list(self._unwritten.items()):
                run = Run(self.store.root / id)
                if run.status()["state"] == "starting" and not _is_at_work(run):
                    run.write_status(state="failed", message=message)
                del self._unwritten[id]


def _is_at_work(run: Run) -> bool:
    """Whether a run has a running process. The PID of this app in the status counts only while the app starts one."""
    return run.alive and at_work(run)


def _pids(run: Run) -> set[int]:
    status = run.status()
    return {status["pid"]} if run.alive and status["pid"] is not None else set()


def _write_end(run: Run, end: End) -> None:
    """Write how a training ended if it did not do so itself; one ended by a signal already reads as killed."""
    if run.status()["state"] not in UNFINISHED:
        return
    if end.asked:
        run.write_status(state="cancelled", message="Cancelled before training began.")
    elif end.code >= 0:
        silent = f"The training process ended with exit code {end.code} and printed no message."
        run.write_status(state="failed", message=last_sentence(run) or silent)
    elif end.silent:
        run.write_status(state="failed", message=f"The training process was ended by signal {-end.code}.")
