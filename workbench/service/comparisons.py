"""Comparisons of selectors as processes of their own, started with the command that a shell user types.

One folder holds them, beside the runs and never among them::

    ID/             what ``jola compare --output`` writes, and nothing else: `jola.studies.results`
    .app/ID/        status.json, asked.json and log.txt of its process
    .trash/         deleted ones that can be brought back

Nothing here depends on being the parent of the process: whether a comparison works is read from its status and its
workers, so that an app that was restarted, or a second one, sees and stops the same comparisons, and those that a shell
began with a folder in here as their output.

A comparison and a training run would slow each other down and make both times meaningless: a comparison is refused
while a run trains or waits, and `Jobs` holds its queue while a comparison works.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.ids import fresh_id, is_plain_name
from jola.runs.store import RunStore
from jola.runs.trash import Trash
from jola.system.files import disk_errors, json_bytes, read_json, replace_file
from jola.system.processes import own_identity, process_alive, workers
from workbench.service import detached
from workbench.service.comparison_plan import Plan, cell_words, compare_flags, config_of, shared_settings
from workbench.service.detached import last_sentence, log_tail
from workbench.service.waiting import Waiting

COMPARE_COMMAND = (sys.executable, "-m", "jola", "compare")
APP_FOLDER = ".app"
ALL_DONE = "All of this is done already; add a selector, a K or a seed."
LISTED = 100

State = Literal["working", "finished", "stopped", "failed"]

_PHASES = {"train": "training", "evaluate": "testing"}
_NOW = re.compile(r"[0-9]+ of [0-9]+: ([\w-]+), (.+?)(?: …|: ([0-9]+) of ([0-9]+)\b.*)")
_INTERRUPTED = "interrupted"
_BEGINS: dict[str, Any] = {"ended": None, "stopped": False, "code": None, "failed": ""}
_CLAIMED: set[Path] = set()
"""Folders of the comparisons that `Stored.claimed` holds."""
_WRITING = threading.Lock()
"""Held while a status is changed: the end of a process and a click may come at the same moment."""


@dataclass(frozen=True)
class Now:
    """What a comparison does at the moment, as its log says."""

    words: str
    done: int = 0
    total: int = 0
    """Of this step; 0 when it is not counted."""


class Stored:
    """One comparison of the store; reads its files anew at every question."""

    def __init__(self, root: Path, id: str) -> None:
        self.id = id
        self.folder = root / id
        self._own = root / APP_FOLDER / id

    @property
    def log_path(self) -> Path:
        """What its process printed."""
        return self._own / "log.txt"

    def is_there(self) -> bool:
        """Whether the folder holds a comparison, or one that was asked for."""
        return self.folder.is_dir() and ((self._own / "status.json").is_file() or bool(self._written()))

    def status(self) -> dict[str, Any]:
        """Process, times and end as the app wrote them down; empty for a comparison that a shell began."""
        return read_json(self._own / "status.json") or {}

    def write_status(self, changes: Mapping[str, Any], *, of: int | None = None) -> None:
        """Change the status in one step; with ``of`` only while it is that of the process with this number."""
        with _WRITING:
            status = self.status()
            if of is not None and status.get("pid") != of:
                return
            with disk_errors(self._own):
                self._own.mkdir(parents=True, exist_ok=True)
            replace_file(self._own / "status.json", json_bytes({**status, **changes}), durable=True)

    def write_plan(self, config: RunConfig, plan: Plan) -> None:
        """Keep what was asked for, which the process writes into its own folder some seconds later."""
        if written := self._written():
            content = {**written, "planned": plan.cell_names()}
            replace_file(self.folder / "comparison.json", json_bytes(content, indent=2))
        else:
            replace_file(self._own / "asked.json", json_bytes({"config": config.to_dict(), "plan": asdict(plan)}))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """This app is about to start its process. When that fails, nobody is at work, whatever the status says."""
        _CLAIMED.add(self.folder)
        try:
            yield
        finally:
            _CLAIMED.discard(self.folder)

    def _written(self) -> dict[str, Any]:
        return read_json(self.folder / "comparison.json") or {}

    def config(self) -> RunConfig:
        """The settings that all its cells share. `InputError` when they are damaged."""
        settings = self._written().get("settings") or (read_json(self._own / "asked.json") or {}).get("config")
        if not isinstance(settings, dict):
            raise InputError(f"The settings of the comparison {self.id} are missing or damaged; delete it.")
        return config_of(settings)

    def has_settings(self, config: RunConfig) -> bool:
        """Whether a comparison with these settings could go on with its results."""
        try:
            return shared_settings(self.config()) == shared_settings(config)
        except InputError:
            return False

    def plan(self) -> Plan:
        """What it compares: what was asked for last, here or in a shell. `InputError` when that is damaged."""
        planned = self._written().get("planned")
        plan = Plan.of_cells(planned) if isinstance(planned, list) else None
        return plan or Plan.from_dict((read_json(self._own / "asked.json") or {}).get("plan"))

    @property
    def created(self) -> float:
        """When it was asked for, in seconds since the epoch."""
        created = self.status().get("created")
        if isinstance(created, int | float):
            return float(created)
        with suppress(OSError):
            return (self.folder / "comparison.json").stat().st_mtime
        return 0.0

    def planned(self) -> list[str]:
        """Names of the cells that were asked for."""
        planned = self._written().get("planned")
        if isinstance(planned, list):
            return [str(name) for name in planned if is_plain_name(str(name))]
        try:
            return self.plan().cell_names()
        except InputError:
            return []

    def ended_cells(self) -> dict[str, float]:
        """When each result was written, by the name of its cell."""
        found = {}
        for path in self.folder.glob("cells/*/result.json"):
            with suppress(OSError):
                found[path.parent.name] = path.stat().st_mtime
        return found

    def mark(self) -> str:
        """Changes whenever there is another result, or other scores."""
        marks = sorted(self.ended_cells().items())
        for path in sorted(self.folder.glob("scores/*.json")):
            with suppress(OSError):
                marks.append((path.name, path.stat().st_mtime))
        return str(hash((self.id, tuple(marks)))) if marks else ""

    @property
    def working(self) -> bool:
        """Whether a process is at work on it, whoever started it."""
        return self._is_run_by_an_app() or bool(workers(self.folder))

    def processes(self) -> set[int]:
        """Numbers of the processes that are at work on it."""
        mine = {self.status()["pid"]} if self._is_run_by_an_app() else set()
        return mine | set(workers(self.folder))

    def _is_run_by_an_app(self) -> bool:
        status = self.status()
        pid, created = status.get("pid"), status.get("pid_created")
        if status.get("ended") or not isinstance(pid, int):
            return False
        return self.folder in _CLAIMED if pid == os.getpid() else process_alive(pid, created)

    @property
    def state(self) -> State:
        """The state now, by its process, its results and the end of its log."""
        return self._state_and_message()[0]

    @property
    def message(self) -> str:
        """Why it failed or stopped, in one sentence; empty for others."""
        return self._state_and_message()[1]

    def _state_and_message(self) -> tuple[State, str]:
        if self.working:
            return "working", ""
        status, planned = self.status(), self.planned()
        if planned and set(planned) <= set(self.ended_cells()):
            return "finished", ""
        if status.get("stopped"):
            return "stopped", "What is done is kept; Resume begins with the training that was under way."
        text, code = log_tail(self), status.get("code")
        said = last_sentence(self)
        if (isinstance(code, int) and code > 0 and said != _INTERRUPTED) or _LAST_WORDS.search(text):
            return "failed", said or f"The process ended with exit code {code} and said nothing."
        if isinstance(code, int) and code < 0:
            return "failed", f"The process was ended by signal {-code}; Resume goes on with what is done."
        if status.get("failed"):
            return "failed", str(status["failed"])
        return "stopped", "Its process ended before all was done; what is done is kept, and Resume goes on."

    def now(self) -> Now | None:
        """What its process does at the moment; None while it does not work."""
        if not self._is_run_by_an_app():
            return Now("At work in a shell") if self.working else None
        for line in reversed(log_tail(self).splitlines()):
            if found := _NOW.fullmatch(line.strip()):
                seeds = len({name.rpartition("seed")[2] for name in self.planned()}) > 1
                words = f"{cell_words(found[1], seeds=seeds)}: {_PHASES.get(found[2], found[2])}"
                return Now(words, int(found[3] or 0), int(found[4] or 0))
            if line.startswith("Loading"):
                break
        return Now("Loading the model and the data")

    def seconds_left(self) -> float | None:
        """Time that the cells to come will take, at the pace of those since the process began; None before the first.

        The one under way counts as a whole one minus what it has taken, and as a tenth of one when it is slower.
        """
        began = self.status().get("started")
        if not self._is_run_by_an_app() or not isinstance(began, int | float):
            return None
        ended = self.ended_cells()
        planned = self.planned()
        made = [when for name in planned if (when := ended.get(name, 0.0)) >= began]
        missing = sum(name not in ended for name in planned)
        if not made or not missing:
            return None
        each = (max(made) - began) / len(made)
        return each * (missing - 1) + max(each - (time.time() - max(made)), 0.1 * each)


_LAST_WORDS = re.compile(r"(?:^|\n)(?:error: .*|\w[\w.]*(?:Error|Exception)\b.*)\Z")
"""How a process ends that refuses its settings, or breaks."""


class Comparisons:
    """Starts, finds, stops and deletes comparisons.

    Args:
        root: Their folder.
        store: The runs, with which comparisons share the computer.
        command: What compares: the command line ``jola compare``.
        check: Raises `InputError` for settings that this app may not train with.
    """

    def __init__(
        self,
        root: Path,
        store: RunStore,
        command: Sequence[str] = COMPARE_COMMAND,
        check: Callable[[RunConfig], None] = lambda config: None,
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self.store = store
        self.command = tuple(command)
        self.check = check
        self._waiting = Waiting(store)

    def list(self) -> list[Stored]:
        """The comparisons there are, newest first, at most `LISTED`."""
        found = [one for one in self._stored() if one.is_there()]
        return sorted(found, key=lambda one: (-one.created, one.id))[:LISTED]

    def _stored(self) -> Iterator[Stored]:
        """Every folder that may hold a comparison."""
        with suppress(OSError):
            for entry in os.scandir(self.root):
                if entry.is_dir(follow_symlinks=False) and is_plain_name(entry.name):
                    yield Stored(self.root, entry.name)

    def find(self, id: str | None) -> Stored | None:
        """The comparison with this id, or None."""
        if not id or not is_plain_name(id) or (self.root / id).is_symlink():
            return None
        found = Stored(self.root, id)
        return found if found.is_there() else None

    def get(self, id: str) -> Stored:
        """The comparison with this id. `InputError` when there is none."""
        found = self.find(id)
        if found is None:
            raise InputError("There is no such comparison any more; choose another one.")
        return found

    def active(self) -> Stored | None:
        """The comparison that a process is working on, whoever started it."""
        return next((found for found in self._stored() if found.working), None)

    def working(self) -> bool:
        """Whether a comparison is at work."""
        return self.active() is not None

    def start(self, config: RunConfig, plan: Plan, heads: int | None = None) -> Stored:
        """Begin a comparison in a process of its own; ``heads`` are those of the model, where that is known.

        `InputError` when something cannot or may not be compared, while a run trains or waits, and while another
        comparison works.
        """
        self.check(config.validate())
        plan.check(config, heads)
        with self._waiting.locked():
            self._must_be_free()
            with disk_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                found = Stored(self.root, fresh_id(config.data.task))
                found.folder.mkdir()
            self._begin(found, config, plan)
        return found

    def resume(self, id: str) -> Stored:
        """Let a comparison that was stopped or failed go on with what is missing. `InputError` as for `start`."""
        found = self.get(id)
        return self._go_on(found, found.config(), found.plan())

    def extend(self, id: str, plan: Plan, heads: int | None = None) -> Stored:
        """Let a comparison go on with another plan and do what it lacks of that. `InputError` as for `start`."""
        found = self.get(id)
        config = found.config()
        plan.check(config, heads)
        return self._go_on(found, config, plan)

    def _go_on(self, found: Stored, config: RunConfig, plan: Plan) -> Stored:
        self.check(config)
        with self._waiting.locked():
            if not found.working and set(plan.cell_names()) <= set(found.ended_cells()):
                raise InputError(ALL_DONE)
            self._must_be_free()
            self._begin(found, config, plan)
        return found

    def _begin(self, found: Stored, config: RunConfig, plan: Plan) -> None:
        now = time.time()
        with found.claimed():
            found.write_status({"created": found.created or now, **_BEGINS, "started": now, **own_identity()})
            found.write_plan(config, plan)
            self._launch(found, config, plan)

    def stop(self, id: str) -> None:
        """End the process of a comparison; its results stay. Nothing happens when it has ended already."""
        found = self.get(id)
        pids = found.processes()
        if not pids:
            return
        found.write_status({"stopped": True})
        for pid in pids - {os.getpid()}:
            # Results are written in one step, so that nothing is left half done.
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise InputError(f"Process {pid} of another user is at work on it; that user has to end it.") from error

    def remove(self, id: str) -> None:
        """Move a comparison to the trash, from where `restore` brings it back. `InputError` while it works."""
        found = self.get(id)
        if found.working:
            raise InputError("This comparison is at work; stop it before you delete it.")
        trash = Trash(self.root)
        trash.put(found.folder)
        for gone in trash.purge():
            if not (self.root / gone.id).exists():
                shutil.rmtree(self.root / APP_FOLDER / gone.id, ignore_errors=True)

    def restore(self, id: str) -> Stored:
        """Bring a deleted comparison back. `InputError` when it is gone for good."""
        try:
            Trash(self.root).restore(id)
        except InputError as error:
            raise InputError("This comparison cannot be brought back any more.") from error
        return self.get(id)

    def wait(self, id: str, seconds: float) -> bool:
        """Whether the comparison ended within ``seconds``."""
        end = time.monotonic() + seconds
        found = self.get(id)
        while found.working:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _must_be_free(self) -> None:
        if any(run.alive for run in self.store.list()):
            raise InputError("A run is training; start the comparison when it has ended, or cancel the run in Train.")
        if self._waiting.ids():
            raise InputError("A run waits in the queue; start the comparison when it has ended, or take it out.")
        if self.working():
            raise InputError("Another comparison is at work; wait for its end, or stop it.")

    def _launch(self, found: Stored, config: RunConfig, plan: Plan) -> None:
        flags = compare_flags(config, plan, str(found.folder))
        try:
            process, identity = detached.start([*self.command, *flags], found.log_path)
        except (OSError, ValueError) as error:  # of a text that no command line can hold
            sentence = f"The process of the comparison could not be started: {error}."
            found.write_status({"ended": time.time(), "failed": sentence})
            raise InputError(sentence) from error
        try:
            found.write_status(identity or {"pid": process.pid, "pid_created": None})
        finally:  # a full disk does not end it
            name = f"attend-{found.id}"
            threading.Thread(target=self._attend, args=(found, process), name=name, daemon=True).start()

    def _attend(self, found: Stored, process: subprocess.Popen[bytes]) -> None:
        """Wait for the process, and write down how it ended, which only its parent is told."""
        code = process.wait()
        with suppress(InputError, OSError):  # a full disk: the log and the results tell it as well
            found.write_status({"ended": time.time(), "code": code}, of=process.pid)
