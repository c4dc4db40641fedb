"""Processes that outlive the app: one manager for training runs, comparisons and other long work.

Each piece of work goes through the same states::

    queued      it waits for its turn; only runs are queued
    starting    its status contains the identity of the app, which is about to start the process
    running     its status contains the identity of the process
    ended       the process wrote how it ended, or if it could not, the app that started it did

Only the exit code requires being the parent of a process; whether it is running, and how to end it, is read from files.
A restarted app, or a second one, therefore sees and can end the same work.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psutil
from filelock import FileLock

from jola.errors import InputError
from jola.system.files import disk_errors
from jola.system.processes import identity, own_identity, process_alive

_LOCK_FILE = ".queue.lock"
_LOG_TAIL_BYTES = 16_384
_POLL_SECONDS = 0.05


class Logged(Protocol):
    """Work whose process writes a log, such as a run or a comparison."""

    @property
    def log_path(self) -> Path:
        """Path of the log."""
        ...


class Work(Logged, Protocol):
    """Work on disk that is done by a process."""

    @property
    def id(self) -> str:
        """Name, unique among work of this kind."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Return the last written status, with ``pid`` and ``pid_created`` of the process."""
        ...

    def write_status(self, **changes: Any) -> None:
        """Change the status atomically."""
        ...


WorkT = TypeVar("WorkT", bound=Work)


@dataclass(frozen=True)
class End:
    """How a process ended, as its parent sees it."""

    code: int
    """The exit code; negative for the signal that ended it."""
    asked: bool
    """Whether this app asked it to end."""
    silent: bool
    """Whether the identity of the process was never written to the status."""


@dataclass(frozen=True)
class Kind(Generic[WorkT]):
    """Functions of one kind of work that the manager needs.

    Args:
        noun: Name in sentences, such as ``training``.
        command: Returns the command line. Raises `InputError` if the work cannot or may not be done.
        pids: Returns the running processes of the work, including those of other apps.
        ended: Writes how the process ended if it did not do so itself. Called in a thread of the app that started it,
            inside `Turns.locked`, and only if the status is still that of this process.
        environment: Returns environment variables of the process in addition to those of the app.
    """

    noun: str
    command: Callable[[WorkT], Sequence[str]]
    pids: Callable[[WorkT], set[int]]
    ended: Callable[[WorkT, End], None]
    environment: Callable[[WorkT], Mapping[str, str]] = lambda work: {}


class Turns:
    """Prevents concurrent work of several kinds, which would be slower and make all measured times meaningless.

    Args:
        folder: Folder of the lock file that all apps share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reasons: dict[str, Callable[[str], str]] = {}

    def add(self, noun: str, reason: Callable[[str], str]) -> None:
        """Register a kind of work. ``reason`` is called with the noun of the work that is to be started.

        It returns in one sentence why that has to wait for work of this kind; empty if it need not wait.
        """
        self._reasons[noun] = reason

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Prevent other apps and threads from starting work or changing the queue during the block; not reentrant."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK_FILE)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def taken(self, noun: str) -> bool:
        """Whether work of another kind is running or waiting."""
        return any(reason(noun) for other, reason in self._reasons.items() if other != noun)

    def check(self, noun: str) -> None:
        """Raise `InputError` while work of any kind is running or waiting."""
        for reason in self._reasons.values():
            if sentence := reason(noun):
                raise InputError(sentence)


class Processes(Generic[WorkT]):
    """Starts, watches and ends the processes of one kind of work."""

    def __init__(self, turns: Turns, kind: Kind[WorkT]) -> None:
        self.turns = turns
        self.kind = kind
        self.news = threading.Event()
        """Set whenever a process of this app has ended."""
        self._asked: set[str] = set()

    def launch(self, work: WorkT, **status: Any) -> None:
        """Start the process of ``work`` and write its identity and ``status``. Call it inside `Turns.locked`.

        Raises `InputError` if it cannot or may not be started; the caller then writes the status.
        """
        self._asked.discard(work.id)
        with _claimed(work):
            work.write_status(**status, **own_identity())
            command = self.kind.command(work)
            try:
                process = _start(command, work.log_path, self.kind.environment(work))
            except (OSError, ValueError) as error:  # ValueError: an argument that a command line cannot contain
                raise InputError(f"The {self.kind.noun} process could not be started: {error}.") from error
            try:
                work.write_status(**_identity(process))
            except BaseException:  # a full disk; without a written identity, no app could end the process
                process.kill()
                process.wait()
                raise
        attend = threading.Thread(target=self._attend, args=(work, process), name=f"attend-{work.id}", daemon=True)
        attend.start()

    def stop(self, work: WorkT) -> bool:
        """Ask the processes of ``work`` to end, with SIGTERM; return whether there was one.

        Raises `InputError` if a process belongs to another user.
        """
        pids = self.kind.pids(work) - {os.getpid()}
        for pid in pids:
            self._asked.add(work.id)
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise InputError(f"Process {pid} of another user is using it; that user has to end it.") from error
        return bool(pids)

    def _attend(self, work: WorkT, process: subprocess.Popen[bytes]) -> None:
        """Wait for the process, and write how it ended."""
        code = process.wait()
        try:
            # Locked, so that resuming the work at this moment happens either before or after.
            with suppress(InputError, OSError), self.turns.locked():
                pid = work.status().get("pid")
                if pid in (process.pid, os.getpid()):
                    self.kind.ended(work, End(code, work.id in self._asked, silent=pid != process.pid))
        finally:
            self.news.set()


def at_work(work: Work) -> bool:
    """Whether the process in the status of ``work`` is running; if it is this app, whether it is about to start one."""
    status = work.status()
    if status.get("pid") == os.getpid():
        if work.log_path in _CLAIMED:
            return True
        status = work.status()  # the process may have been started meanwhile
    pid = status.get("pid")
    return isinstance(pid, int) and pid != os.getpid() and process_alive(pid, status.get("pid_created"))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait at most ``seconds`` for ``condition`` and return whether it became true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


_CLAIMED: set[Path] = set()
"""Logs of work whose process this app is about to start; if that fails, the work has no process."""


@contextmanager
def _claimed(work: Work) -> Iterator[None]:
    _CLAIMED.add(work.log_path)
    try:
        yield
    finally:
        _CLAIMED.discard(work.log_path)


def _start(command: Sequence[str], log_path: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that appends its output to a file. Raises `OSError` if it cannot be started."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment(), **variables},
            start_new_session=True,  # Ctrl-C in the app's terminal must not reach it
        )


def _identity(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    try:
        return identity(process.pid)
    except psutil.NoSuchProcess:  # it has ended already
        return {"pid": process.pid, "pid_created": None}


def environment() -> dict[str, str]:
    """Return the app's environment, with this `jola` importable and unbuffered output."""
    import jola

    source = str(Path(jola.__path__[0]).parent)
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def log_tail(work: Logged) -> str:
    """Return the end of the log; empty if there is none."""
    try:
        with open(work.log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()
    return "\n".join(lines[1:] if size > _LOG_TAIL_BYTES else lines).strip()


def last_sentence(work: Logged) -> str:
    """Return the last line of the log that is not blank, without the ``error:`` prefix of the command line."""
    lines = [line.strip() for line in log_tail(work).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
