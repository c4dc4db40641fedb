"""Training runs as processes of their own, started with the command that a shell user types.

Nothing here depends on being the parent of the training: which run is at work is read from the run directories, so
that an app that was restarted, or a second one, sees and cancels the same run.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from jola.config import RunConfig
from jola.errors import InputError
from jola.processes import process_alive
from jola.runs import UNFINISHED, Run, RunStore

TRAIN_COMMAND = (sys.executable, "-m", "jola", "train")
_LOG_TAIL_BYTES = 16_384


class Jobs:
    """Starts, finds and cancels the training runs of a store; one run trains at a time."""

    def __init__(self, store: RunStore, command: Sequence[str] = TRAIN_COMMAND) -> None:
        self.store = store
        self.command = tuple(command)
        self._starting = threading.Lock()
        self._cancelled: set[str] = set()

    def active(self) -> Run | None:
        """The newest run that a process is working on, whoever started it."""
        return next((run for run in self.store.list() if run.alive), None)

    def start(self, config: RunConfig) -> Run:
        """Start training in a new process and return its run at once.

        `InputError` when a setting cannot be used or another run is training.
        """
        config.validate()
        with self._starting:
            busy = self.active()
            if busy is not None:
                raise InputError(f"The run {busy.id} is {busy.state}; wait for it to end, or cancel it first.")
            run = Run(self.store.root / self.store.new_id(config.data.task))
            config = replace(config, training=replace(config.training, output=str(run.path)))
            try:
                with open(run.log_path, "ab") as log:
                    process = subprocess.Popen(
                        [*self.command, *config.flags()],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=_environment(),
                        start_new_session=True,  # Ctrl-C in the app's terminal is not meant for the training
                    )
            except OSError as error:
                run.write_status(state="failed", message=f"The training process could not be started: {error}.")
                raise InputError(f"The training process could not be started: {error}.") from error
            with suppress(psutil.NoSuchProcess):  # it ended at once: `_attend` says why
                run.write_status(pid=process.pid, pid_created=psutil.Process(process.pid).create_time())
        threading.Thread(target=self._attend, args=(run, process), name=f"attend-{run.id}", daemon=True).start()
        return run

    def _attend(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        """Wait for the process, and write down how it ended if it could not do so itself."""
        code = process.wait()
        status = run.status()
        if status["state"] not in UNFINISHED or status["pid"] not in (process.pid, os.getpid()):
            return
        if run.id in self._cancelled:
            run.write_status(state="cancelled", message="Cancelled before training began.")
        elif code >= 0:
            message = last_sentence(run) or f"The training process ended with exit code {code} and said nothing."
            run.write_status(state="failed", message=message)
        elif status["pid"] == os.getpid():
            run.write_status(state="failed", message=f"The training process was ended by signal {-code}.")

    def cancel(self, id: str) -> None:
        """Ask a run to stop at its next step; nothing happens when it has ended already."""
        run = self.store.get(id)
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
        while run.alive:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


def _environment() -> dict[str, str]:
    """The app's environment, with this very `jola` importable and the log written line by line."""
    import jola

    source = str(Path(jola.__path__[0]).parent)
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def log_tail(run: Run) -> str:
    """The end of what the training process printed; empty when there is nothing."""
    try:
        with open(run.log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()
    return "\n".join(lines[1:] if size > _LOG_TAIL_BYTES else lines).strip()


def last_sentence(run: Run) -> str:
    """The last line of the log that is not a blank one, without the ``error:`` of the command line."""
    lines = [line.strip() for line in log_tail(run).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
