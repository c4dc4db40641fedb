"""The training runs of a store as processes of their own, started with the command that a shell user types.

Runs share the computer with other work (`Turns`): what is asked for while something is at work waits in a queue, in the
order in which it was asked for. With several accelerators, one run trains on each (`workbench.service.devices`).
"""

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
"""States from which a run can go on with its last checkpoint."""
_NOUN = "training"
_LOOK_SECONDS = 1.0


class Jobs:
    """Starts, finds, pauses and cancels the training runs of a store.

    Args:
        store: Where the runs are.
        command: What trains: the command line ``jola train``.
        at_once: Runs that train at the same time on a machine with at most one accelerator; the others wait.
        check: Raises `InputError` for settings that this app may not train with.
        turns: Shared with everything that must not work at the same time; by default, with the runs of other apps.
        devices: Gives the accelerators of this machine. With several, a run trains on each at the same time.
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
        """Why runs failed whose status could not be written on a full disk, by id."""
        self._attending: threading.Thread | None = None
        self._thread_lock = threading.Lock()

    def running(self) -> list[Run]:
        """Runs that a process is working on, including those of other apps and shells, newest first."""
        return [run for run in self.store.list() if _is_at_work(run)]

    def active(self) -> Run | None:
        """The newest run that a process is working on, including those of other apps and shells."""
        return next((run for run in self.store.list() if _is_at_work(run)), None)

    def places(self) -> Places:
        """Where runs train now."""
        return Places(self.devices(), self.running(), self.at_once)

    def full(self) -> bool:
        """Whether a run that names no device has to wait for those at work."""
        return len(self.running()) >= self.at_once and self.places().full

    def start(self, config: RunConfig) -> Run:
        """Make a run that trains in a process of its own: at once, or when it is first in the queue.

        `InputError` when a setting cannot or may not be used, or the process cannot be started.
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
        except InputError:  # a full disk: what did not begin is not left in the queue
            with self.turns.locked():
                if not _is_at_work(run):
                    shutil.rmtree(run.path, ignore_errors=True)
            raise
        return self._started(run)

    def resume(self, id: str) -> Run:
        """Let a paused, killed, cancelled or failed run go on: at once, or when it is first in the queue."""
        with self.turns.locked():
            run = self.store.get(id)
            state = run.state
            if state not in RESUMABLE:
                raise InputError(f"The run {id} is {state}; only one that was interrupted can go on.")
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
        """Ask a run to pause at its next step; nothing happens when no process is at work on it."""
        run = self.store.get(id)
        if run.alive:
            request_pause(run)

    def cancel(self, id: str) -> None:
        """Take a run out of the queue, or ask it to stop at its next step; nothing happens when it has ended already.

        A run that had begun before it was queued or paused is as it was: resuming goes on with it.
        """
        run = self.store.get(id)
        with self.turns.locked():
            if run.status()["state"] in ("queued", "paused"):
                self.waiting.take(id)
                begun = run.status()["step"] > 0
                message = "" if begun else "Taken out of the queue before training began."
                run.write_status(state="cancelled", message=message)
                return
        self._processes.stop(run)

    def wait(self, id: str, seconds: float) -> bool:
        """Whether the run ended within ``seconds``."""
        run = self.store.get(id)
        return wait_until(lambda: not run.alive and run.state != "queued", seconds)

    def continue_queue(self) -> None:
        """Take up the runs that wait and are not in the queue: an earlier app left them, or they were brought back."""
        with self.turns.locked():
            self.waiting.recover()
        if self.waiting.ids():
            self._attend_queue()

    def _why_others_wait(self, noun: str) -> str:
        if self.active() is not None:
            return f"A run is training; start the {noun} when it has ended, or cancel the run in Train."
        if self.waiting.ids():
            return f"A run waits in the queue; start the {noun} when it has ended, or take the run out of the queue."
        return ""

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
        self.devices()  # may take seconds the first time, in which nobody else should wait
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
                            return  # those behind it would keep it waiting for ever
                        continue
                    self._processes.launch(run, state="starting", device=device)
                except FileNotFoundError:  # deleted a moment ago
                    continue
                except InputError as error:
                    self._unwritten[id] = str(error)
                    run.write_status(state="failed", message=str(error))
                    del self._unwritten[id]
                self.waiting.take(id)

    def _command(self, run: Run) -> list[str]:
        """The command of a run that was made already, which is what ``--resume`` is for."""
        config = run.run_config()
        self.check(config)  # an app that is open to fewer models may go on with the queue of an earlier one
        config = replace(config, training=replace(config.training, output=str(run.path)))  # where it is now
        config = replace(config, model=replace(config.model, shard_base=False))  # in one process
        return [*self.command, *config.flags(), "--resume"]

    @staticmethod
    def _environment(run: Run) -> dict[str, str]:
        """The assigned device. It is not a setting, so that the run can be resumed and opened on other devices."""
        device = run.status().get("device")
        return {DEVICE_VARIABLE: device} if device else {}

    def _attend_queue(self) -> None:
        """See to it that a thread starts the waiting runs when there is room for them."""
        with self._thread_lock:
            if self._attending is None or not self._attending.is_alive():
                self._attending = threading.Thread(target=self._work_off, name="queue", daemon=True)
                self._attending.start()

    def _work_off(self) -> None:
        while True:
            with suppress(InputError, OSError):  # a full disk now may not be one later
                self._write_failures()
                self._next()
            # Under the lock, so that a run that is queued at this moment finds the thread alive or starts another.
            with self._thread_lock:
                if not self.waiting.ids() and not self._unwritten:
                    self._attending = None
                    return
            # The end of work that another app started brings no news.
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
    """Whether a process works on a run. The app itself does only while it starts one, whatever was written last."""
    return run.alive and at_work(run)


def _pids(run: Run) -> set[int]:
    status = run.status()
    return {status["pid"]} if run.alive and status["pid"] is not None else set()


def _write_end(run: Run, end: End) -> None:
    """Write how a training ended that did not say so itself. One that a signal ended reads as killed without that."""
    if run.status()["state"] not in UNFINISHED:
        return
    if end.asked:
        run.write_status(state="cancelled", message="Cancelled before training began.")
    elif end.code >= 0:
        silent = f"The training process ended with exit code {end.code} and printed no message."
        run.write_status(state="failed", message=last_sentence(run) or silent)
    elif end.silent:
        run.write_status(state="failed", message=f"The training process was ended by signal {-end.code}.")
