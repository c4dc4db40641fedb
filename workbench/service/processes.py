"""Processes that outlive the app: one manager for training runs, comparisons, and whatever else takes long.

Each piece of work goes through the same states::

    queued      it waits for its turn; only runs are queued
    starting    its status holds the identity of the app, which is about to start the process
    running     its status holds the identity of the process
    ended       the process wrote how it ended or, where it could not, the app that started it did

Only the exit code depends on being the parent of a process; whether it is at work, and how to end it, is read from
files. An app that was restarted, or a second one, sees and ends the same work.
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
    """Something whose process writes a log: a run, a comparison."""

    @property
    def log_path(self) -> Path:
        """The file."""
        ...


class Work(Logged, Protocol):
    """Something on disk that a process works on."""

    @property
    def id(self) -> str:
        """Its name, which no other work of this kind has."""
        ...

    def status(self) -> Mapping[str, Any]:
        """What was written last, with ``pid`` and ``pid_created`` of the process."""
        ...

    def write_status(self, **changes: Any) -> None:
        """Change the status in one step."""
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
    """Whether the status never came to hold the identity of the process."""


@dataclass(frozen=True)
class Kind(Generic[WorkT]):
    """What the manager has to know about one kind of work.

    Args:
        noun: What it is called in sentences, such as ``training``.
        command: The command line that does it. `InputError` when it cannot or may not be done.
        pids: The processes that are working on it now, including those of other apps.
        ended: Writes down how it ended where the process did not do so itself. Called in a thread of the app that
            started it, in turn, and only while the status is still that of this process.
        environment: Environment variables of its process, beside those of the app.
    """

    noun: str
    command: Callable[[WorkT], Sequence[str]]
    pids: Callable[[WorkT], set[int]]
    ended: Callable[[WorkT, End], None]
    environment: Callable[[WorkT], Mapping[str, str]] = lambda work: {}


class Turns:
    """Whose turn it is. Work of several kinds at once would slow each other down and make all times meaningless.

    Args:
        folder: Where the lock is that all apps share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reasons: dict[str, Callable[[str], str]] = {}

    def add(self, noun: str, reason: Callable[[str], str]) -> None:
        """Make a kind of work known. ``reason`` is called with the noun of the work that wants to start.

        It returns why that has to wait for work of this kind, in one sentence; empty while none is at work.
        """
        self._reasons[noun] = reason

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other app or thread starts anything, or changes the queue, while the block runs; not reentrant."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK_FILE)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def taken(self, noun: str) -> bool:
        """Whether work of another kind is at work."""
        return any(reason(noun) for other, reason in self._reasons.items() if other != noun)

    def check(self, noun: str) -> None:
        """`InputError` while anything is at work, of whatever kind."""
        for reason in self._reasons.values():
            if sentence := reason(noun):
                raise InputError(sentence)


class Processes(Generic[WorkT]):
    """Starts, attends and ends the processes of one kind of work."""

    def __init__(self, turns: Turns, kind: Kind[WorkT]) -> None:
        self.turns = turns
        self.kind = kind
        self.news = threading.Event()
        """Set whenever a process of this app has ended."""
        self._asked: set[str] = set()

    def launch(self, work: WorkT, **status: Any) -> None:
        """Start the process of ``work`` and write down whose it is; ``status`` joins what is written. Call it in turn.

        `InputError` when it cannot or may not be started; how the work stands then is the caller's to write.
        """
        self._asked.discard(work.id)
        with _claimed(work):
            work.write_status(**status, **own_identity())
            command = self.kind.command(work)
            try:
                process = _start(command, work.log_path, self.kind.environment(work))
            except (OSError, ValueError) as error:  # ValueError: a text that no command line can hold
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
        """Ask the processes of ``work`` to end, with SIGTERM; whether there was one.

        `InputError` when they are those of another user.
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
        """Wait for the process, and have written down how it ended."""
        code = process.wait()
        try:
            # In turn: somebody who lets the work go on at this moment does so before or after, and neither is lost.
            with suppress(InputError, OSError), self.turns.locked():
                pid = work.status().get("pid")
                if pid in (process.pid, os.getpid()):
                    self.kind.ended(work, End(code, work.id in self._asked, silent=pid != process.pid))
        finally:
            self.news.set()


def at_work(work: Work) -> bool:
    """Whether the process in the status of ``work`` is at work; of this app's own, while it starts that process."""
    status = work.status()
    pid = status.get("pid")
    if not isinstance(pid, int):
        return False
    return work.log_path in _CLAIMED if pid == os.getpid() else process_alive(pid, status.get("pid_created"))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


_CLAIMED: set[Path] = set()
"""Logs of the work whose process this app is about to start; if that fails, no process works on it."""


@contextmanager
def _claimed(work: Work) -> Iterator[None]:
    _CLAIMED.add(work.log_path)
    try:
        yield
    finally:
        _CLAIMED.discard(work.log_path)


def _start(command: Sequence[str], log_path: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that appends what it prints to a file. `OSError` when it cannot be started."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment(), **variables},
            start_new_session=True,  # Ctrl-C in the app's terminal is not meant for it
        )


def _identity(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    try:
        return identity(process.pid)
    except psutil.NoSuchProcess:  # it has ended already
        return {"pid": process.pid, "pid_created": None}


def environment() -> dict[str, str]:
    """The app's environment, with this very `jola` importable and the log written line by line."""
    import jola

    source = str(Path(jola.__path__[0]).parent)
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def log_tail(work: Logged) -> str:
    """The end of what the process printed; empty when there is nothing."""
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
    """The last line of the log that is not blank, without the ``error:`` of the command line."""
    lines = [line.strip() for line in log_tail(work).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
