"""One training run as a directory.

One process writes a run, and the app that starts it writes its status too. Any number of others may read it at any
time, also after the writer was killed::

    config.json     settings, and facts recorded at the start: versions, task, model geometry
    status.json     state, process, step, message; replaced atomically
    metrics.jsonl   the training's metrics, see `jola.runs.metrics`
    gates/          the binary history of each site, see `jola.runs.history`
    result.json     test accuracy, share of closed gates, seconds
    answers.jsonl   the answers to the test examples, see `jola.runs.answers`
    notes.json      the user's label and note, see `jola.runs.notes`
    adapter/  checkpoints/  log.txt

There is no database: the files are the interface, and every number in them is in plain units (seconds since the epoch,
steps, fractions). Numbers that are not finite are written as null. Readers need no lock.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jola._lazy import lazily
from jola.config import GROUPS, RunConfig
from jola.errors import InputError
from jola.runs.answers import ANSWERS_NAME, TestAnswer, read_answers, write_answers
from jola.runs.history import (
    GATE_FIELDS,
    Array,
    GateHistory,
    GateWriter,
    is_readable,
    read_last,
    recorded_sites,
    truncate_history,
)
from jola.runs.metrics import METRICS_NAME, append_metrics, read_metrics, truncate_metrics
from jola.runs.notes import NOTES_NAME, RunNotes, notes_from, read_notes, write_notes
from jola.runs.schema import ConfigFile, NotesFile, ResultFile, StatusFile
from jola.runs.state import ENDED, UNFINISHED, WAITING, WRITTEN, State, current_state
from jola.runs.summary import RunSummary, method_in, summarise_run
from jola.runs.trash import folder_size
from jola.system.files import disk_errors, folder_locked, json_bytes, read_json, replace_file
from jola.system.processes import own_identity
from jola.system.typed_json import JsonFile, read_typed, read_valid_part

if TYPE_CHECKING:
    from jola.runs.store import RunStore

_FILES: dict[str, type[JsonFile]] = {
    "config.json": ConfigFile,
    "status.json": StatusFile,
    "result.json": ResultFile,
    NOTES_NAME: NotesFile,
}

_WEIGHTS = "adapter/adapter_model.safetensors"

__all__ = ["UNFINISHED", "WAITING", "Run", "RunStore", "RunSummary", "State"]

__getattr__ = lazily(__name__, {"jola.runs.store": ("RunStore",)})


class Run:
    """One training run: a view of its directory, for readers and for the writer."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(os.path.abspath(path))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Return the run in ``path``. Raises `InputError` if there is none."""
        run = cls(path)
        if not os.path.isdir(path):
            raise InputError(f"There is no run directory {path}; `jola runs` lists all runs.")
        if not run.is_run():
            raise InputError(f"{path} is not a run directory: it has neither config.json nor status.json.")
        return run

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: RunConfig,
        extra: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
    ) -> "Run":
        """Make ``path`` the directory of a run of this process, in state ``starting``.

        ``extra`` is added to the configuration in ``config.json``: ``versions``, ``task``, ``geometry``. ``resume``
        takes over a run that ended and keeps its history; call `truncate_after` with the step of the checkpoint. Raises
        `InputError` if the directory contains a run and ``resume`` is false, if another process is writing that run, if
        it contains other files, or if it cannot be created.
        """
        run = cls(path)
        with disk_errors(run.path):
            ours = not run.path.exists() or (run.path / "status.json").exists()
            try:
                run.path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise InputError(
                    f"{path} cannot be created: a file is in the way; move it or choose another directory."
                ) from None
            # One lock for checking the state and writing this process: two processes may resume a run at the same time.
            with folder_locked(run.path):
                new = run._claim(resume)
                created = time.time() if new else run.created
                content = {**config.to_dict(), **(extra or {}), "created": created}
                try:
                    replace_file(run.path / "config.json", json_bytes(content, indent=2), durable=True)
                    run._change_status(
                        state="starting",
                        message="",
                        warning="",
                        started=time.time(),
                        **own_identity(),
                        **({"step": 0, "total_steps": 0} if new else {}),
                    )
                except BaseException:
                    if new:
                        run._give_back(folder=ours)
                    raise
        return run

    def _give_back(self, folder: bool) -> None:
        """Undo `_claim` of a new run before anything else was written; ``folder`` also removes the directory."""
        with suppress(OSError):
            for name in ("config.json", "status.json") if folder else ("config.json",):
                (self.path / name).unlink(missing_ok=True)
            if folder:
                self.path.rmdir()

    def _claim(self, resume: bool) -> bool:
        """Claim the directory, which is locked, for this process; return whether the run is new."""
        config = self.path / "config.json"
        if not config.exists():
            # `RunStore.new_id` writes a status, and a starting process may write its log before this call.
            names = {item.name for item in self.path.iterdir()} - {"status.json", "log.txt"}
            others = sorted(name for name in names if not name.startswith("."))
            if others:
                raise InputError(
                    f"{self.path} contains other files ({', '.join(others[:3])}); "
                    "choose an empty or new directory for the run."
                )
            try:
                os.close(os.open(config, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                return True
            except FileExistsError:
                pass
        state, pid = self.state, self.status()["pid"]
        if state in UNFINISHED and pid not in (os.getpid(), os.getppid()):  # or the parent created it for this one
            writer = "another process" if pid is None else f"process {pid}"
            raise InputError(f"{self.path} is being written by {writer}; wait for it or cancel it first.")
        if not resume:
            raise InputError(f"{self.path} already contains a run ({state}); resume it or choose another directory.")
        return False

    def is_run(self) -> bool:
        """Whether the directory is a run."""
        return (self.path / "config.json").exists() or (self.path / "status.json").exists()

    # Reading

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def why_no_adapter(self) -> str:
        """Return the error message for a run without an adapter."""
        method = method_in(self.raw_config())
        if not method.trains:
            return (
                f"The run {self.id} has no adapter, because {method.title.lower()} runs test the base model as it is; "
                "choose another run."
            )
        return f"The run {self.id} has no adapter yet ({self.state}); wait until it ends or choose another."

    @property
    def has_adapter(self) -> bool:
        """Whether there are edits to load; a running run saves its best edits so far."""
        return (self.path / _WEIGHTS).is_file()

    @property
    def adapter_dir(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def gates_dir(self) -> Path:
        return self.path / "gates"

    @property
    def created(self) -> float:
        """Creation time of the run, in seconds since the epoch."""
        return self._created(self.raw_config(), self.status())

    def _created(self, config: Mapping[str, Any], status: Mapping[str, Any]) -> float:
        for value in (config.get("created"), status["started"]):
            if value:
                return float(value)
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def raw_config(self) -> dict[str, Any]:
        """Return the valid part of ``config.json``; empty if the file is missing or damaged."""
        return self._valid("config.json")[0]

    def _valid(self, name: str) -> tuple[dict[str, Any], str]:
        """Return the valid members of a file, and what is wrong with the others."""
        content, fault = read_valid_part(self.path / name, _FILES[name])
        return content, fault.replace(f"{self.path}{os.sep}", "")

    def problem(self) -> str:
        """Return one sentence about what is wrong with the files of the run; empty if all existing files can be read.

        Values that are not valid are skipped when reading, so a run with a problem can still be listed, viewed and
        deleted.
        """
        return next(filter(None, (self._valid(name)[1] for name in _FILES)), "") or self._last_records()[1]

    def _last_records(self) -> tuple[list[dict[str, Array]], str]:
        """Return the last gate record of each site, and what is wrong with the files of the history."""
        records, problem = [], ""
        if (self.path / METRICS_NAME).is_dir():
            problem = f"{METRICS_NAME} must be a file, but is a folder."
        for site in recorded_sites(self.gates_dir):
            try:
                last = read_last(self.gates_dir, site)
            except InputError as error:
                problem = problem or str(error).replace(f"{self.path}{os.sep}", "")
            else:
                records += [last[1]] if last is not None else []
        return records, problem

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.json``: settings, versions, task, geometry. Raises `InputError` if damaged."""
        config = read_typed(self.path / "config.json", ConfigFile)
        if not config:
            raise InputError(f"{self.path / 'config.json'} is missing or empty; the run cannot be used.")
        return config

    def run_config(self) -> RunConfig:
        """Return the settings of the run. Raises `InputError` if they are damaged or of another version."""
        config = self.config()
        return RunConfig.from_dict({name: config[name] for name in (*GROUPS, "method") if name in config})

    def status(self) -> dict[str, Any]:
        """Return the content of ``status.json``, with every key present; never raises.

        ``state`` is the last one that the run wrote; the property `state` also checks the process.
        """
        return StatusFile().model_dump() | self._valid("status.json")[0]

    @property
    def state(self) -> State:
        """The current state: the one that the run wrote, or ``killed`` if it is unfinished and its process is gone."""
        return self._state_of(self.status())

    def _state_of(self, status: Mapping[str, Any]) -> State:
        state = current_state(status, self.path)
        # A process may write its last state and end after its status was read, and before it was looked for.
        return current_state(self.status(), self.path) if state == "killed" else state

    @property
    def alive(self) -> bool:
        """Whether the run has a running process."""
        return self.state in UNFINISHED

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, oldest first, without incomplete and damaged ones."""
        return read_metrics(self.path)

    def sites(self) -> list[str]:
        """Return the sites with a readable gate history, such as ``["heads"]``."""
        return [site for site in recorded_sites(self.gates_dir) if is_readable(self.gates_dir, site)]

    def gates(self, site: str = "heads") -> GateHistory:
        """Return the gate history of ``site``, fields of (S, layers, units). Raises `InputError` before it begins."""
        return GateHistory.read(self.gates_dir, site)

    def last_gates(self, site: str = "heads") -> tuple[int, dict[str, Array]] | None:
        """Return step and fields, each (layers, units), of the last record, reading only that; None before it."""
        return read_last(self.gates_dir, site)

    def result(self) -> dict[str, Any] | None:
        """Return the valid part of ``result.json``; None before the run has a result."""
        return self._valid("result.json")[0] or None

    def answers(self) -> list[TestAnswer]:
        """Return the answers to the test examples, in order; empty before the test, and for runs that stored none.

        Raises `InputError` if the file is damaged.
        """
        return read_answers(self.path)

    def version(self) -> int:
        """Return a number below 2**53 that grows whenever the run writes something.

        Equal numbers mean that nothing changed, with one exception: a killed process changes `state` and writes
        nothing.
        """
        return self.status()["writes"] + self._appended()

    def mark(self) -> tuple[Any, ...] | None:
        """Return a value that changes with the files of the run, without reading them; None if it is not a run.

        The run's own writes replace its status. The adapter is looked at itself, because on older kernels the time of a
        directory does not distinguish changes within a few milliseconds.
        """
        marks: list[Any] = []
        for name in ("status.json", "config.json", "result.json", "notes.json", _WEIGHTS, ""):
            try:
                found = os.stat(self.path / name)
                marks.append((found.st_mtime_ns, found.st_ino))
            except OSError:
                marks.append(None)
        return None if marks[0] is None and marks[1] is None else tuple(marks)

    def _appended(self) -> int:
        """Return the bytes of the files that grow or appear."""
        size = 0
        for path in (self.path / METRICS_NAME, self.path / "result.json", *self.gates_dir.glob("*.f32")):
            try:
                size += path.stat().st_size
            except OSError:
                continue
        return size

    def summary(self) -> RunSummary:
        """Return the run as one row of a table; never raises for unfinished or damaged runs."""
        found = {name: self._valid(name) for name in _FILES}
        gates, problem = self._last_records()
        problem = next((fault for _, fault in found.values() if fault), problem)
        config, status, result = (found[name][0] for name in ("config.json", "status.json", "result.json"))
        status = StatusFile().model_dump() | status
        return summarise_run(
            self.id,
            config=config,
            status=status,
            result=result,
            notes=notes_from(found[NOTES_NAME][0]),
            gates=gates,
            state=self._state_of(status),
            created=self._created(config, status),
            size=folder_size(self.path),
            adapter=self.has_adapter,
            problem=problem,
        )

    # The label and the note, which users may change at any time; the directory keeps its name.

    def notes(self) -> RunNotes:
        """Return the label and the note of the run; empty if it has none."""
        return read_notes(self.path)

    def annotate(self, *, label: str | None = None, note: str | None = None) -> RunNotes:
        """Change the label of the run, its note, or both, and return both; an empty text removes it.

        Raises `InputError` for a text that is too long, and if the disk is full or read-only.
        """
        notes = self.notes().changed(label=label, note=note)
        write_notes(self.path, notes)
        return notes

    # Writing: only for the process that owns the run. A full disk raises `InputError` everywhere.

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace facts next to the settings in ``config.json``, such as ``parameters``."""
        content = {**(read_json(self.path / "config.json") or {}), **facts}
        replace_file(self.path / "config.json", json_bytes(content, indent=2), durable=True)

    def write_status(self, **changes: Any) -> None:
        """Change ``status.json`` atomically; this writes a small file, so call it at most a few times per second."""
        state = changes.get("state")
        if state is not None and state not in WRITTEN:
            raise ValueError(f"unknown state {state!r}")
        # Locked, because the app that starts a run writes its process while that process may write its first state.
        with folder_locked(self.path):
            self._change_status(**changes)

    def _change_status(self, **changes: Any) -> None:
        """Change ``status.json`` while the folder is locked."""
        status = self.status() | changes
        status["updated"] = time.time()
        status["writes"] += 1
        replace_file(self.path / "status.json", json_bytes(status), durable=status["state"] in ENDED | WAITING)

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        append_metrics(self.path, entry)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json`` atomically."""
        replace_file(self.path / "result.json", json_bytes(result, indent=2), durable=True)

    def write_answers(self, answers: Sequence[TestAnswer]) -> bool:
        """Write ``answers.jsonl`` atomically; return False, without a file, if it would be larger than 64 MB."""
        return write_answers(self.path, answers)

    def gate_writer(
        self,
        site: str,
        layers: int,
        units: int,
        fields: Sequence[str] = GATE_FIELDS,
        unit_names: Sequence[str] | None = None,
    ) -> GateWriter:
        """Return the writer of the history of ``site``; close it, or use it in a ``with`` block."""
        return GateWriter(self.gates_dir, site, layers, units, fields, unit_names)

    def truncate_after(self, step: int) -> None:
        """Drop metrics and gate records of later steps, and incomplete ones of a killed process.

        Call it before training resumes from the checkpoint of ``step``: the history is then what an uninterrupted run
        would have written by that step, and result and answers are removed.
        """
        before = self._appended()
        truncate_metrics(self.path, step)
        for site in self.sites():
            truncate_history(self.gates_dir, site, step)
        for name in ("result.json", ANSWERS_NAME):
            (self.path / name).unlink(missing_ok=True)
        # The removed bytes are added to the count of writes, so that the version still grows.
        self.write_status(step=step, writes=self.status()["writes"] + before - self._appended())
