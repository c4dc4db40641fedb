"""A comparison of selectors on disk: its plan, its results, and the state of its process.

::

    ID/             output of ``jola compare --output`` only: `jola.studies.results`
    .app/ID/        status.json, asked.json and log.txt of its process
"""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.ids import is_plain_name
from jola.studies.schema import FILE, ComparisonFile
from jola.system.files import json_bytes, make_folder, replace_file
from jola.system.typed_json import Count, JsonFile, Line, read_valid_part
from workbench.service.comparison_plan import Plan, cell_words, config_of, shared_settings
from workbench.service.processes import last_sentence, log_tail
from workbench.service.stored_work import StoredWork

State = Literal["working", "finished", "stopped", "failed"]

_PHASES = {"train": "training", "evaluate": "testing"}
_NOW = re.compile(r"[0-9]+ of [0-9]+: ([\w-]+), (.+?)(?: …|: ([0-9]+) of ([0-9]+)\b.*)")
_INTERRUPTED = "interrupted"


class _AskedFile(JsonFile):
    """``asked.json``: the settings and the plan, until the process has written ``comparison.json``."""

    config: dict[str, Any] | None = None
    plan: dict[str, list[Line | Count]] | None = None


@dataclass(frozen=True)
class Now:
    """The current step of a comparison, from its log."""

    words: str
    done: int = 0
    total: int = 0
    """Total of this step; 0 if it is not counted."""


class StoredComparison(StoredWork):
    """A comparison; reads its files again at every access."""

    def is_there(self) -> bool:
        """Whether the folder contains a comparison, or one was requested."""
        return self.folder.is_dir() and ((self.own / "status.json").exists() or (self.folder / FILE).exists())

    def beginnings(self) -> Sequence[Path]:
        """See `StoredWork`."""
        return (self.folder / FILE,)

    def write_plan(self, config: RunConfig, plan: Plan) -> None:
        """Store the plan, which the process writes into its own folder some seconds later."""
        if written := self._written():
            content = {**written, "planned": plan.cell_names()}
            replace_file(self.folder / FILE, json_bytes(content, indent=2))
        else:
            make_folder(self.own)
            replace_file(self.own / "asked.json", json_bytes({"config": config.to_dict(), "plan": asdict(plan)}))

    def _written(self) -> dict[str, Any]:
        return read_valid_part(self.folder / FILE, ComparisonFile)[0]

    def _asked(self) -> dict[str, Any]:
        return read_valid_part(self.own / "asked.json", _AskedFile)[0]

    @property
    def label(self) -> str:
        """Label of the comparison; usually empty."""
        return str(self._written().get("label", ""))

    @property
    def note(self) -> str:
        """Note on the comparison; usually empty."""
        return str(self._written().get("note", ""))

    def config(self) -> RunConfig:
        """Return the settings that all cells share. Raises `InputError` if they are missing or damaged."""
        settings = self._written().get("settings") or self._asked().get("config")
        if not isinstance(settings, dict):
            raise InputError(f"The settings of the comparison {self.id} are missing or damaged; delete it.")
        return config_of(settings)

    def has_settings(self, config: RunConfig) -> bool:
        """Whether a comparison with these settings could continue with its results."""
        try:
            return shared_settings(self.config()) == shared_settings(config)
        except InputError:
            return False

    def plan(self) -> Plan:
        """Return the plan that was requested last, here or in a shell. Raises `InputError` if it is damaged."""
        planned = self._written().get("planned")
        plan = Plan.of_cells(planned) if isinstance(planned, list) else None
        return plan or Plan.from_dict(self._asked().get("plan"))

    def planned(self) -> list[str]:
        """Return the names of the planned cells."""
        planned = self._written().get("planned")
        if isinstance(planned, list):
            return [str(name) for name in planned if is_plain_name(str(name))]
        try:
            return self.plan().cell_names()
        except InputError:
            return []

    def ended_cells(self) -> dict[str, float]:
        """Return the time when each result was written, by the name of its cell."""
        found = {}
        for path in self.folder.glob("cells/*/result.json"):
            with suppress(OSError):
                found[path.parent.name] = path.stat().st_mtime
        return found

    def mark(self) -> str:
        """Return a token that changes with every new result or score; empty if there are none."""
        marks = sorted(self.ended_cells().items())
        for path in sorted(self.folder.glob("scores/*.json")):
            with suppress(OSError):
                marks.append((path.name, path.stat().st_mtime))
        return str(hash((self.id, tuple(marks)))) if marks else ""

    @property
    def state(self) -> State:
        """The current state, from its process, its results and the end of its log."""
        return self._state_and_message()[0]

    @property
    def message(self) -> str:
        """The reason why it failed or stopped, in one sentence; otherwise empty."""
        return self._state_and_message()[1]

    def _state_and_message(self) -> tuple[State, str]:
        if self.working:
            return "working", ""
        status, planned = self.status(), self.planned()
        if planned and set(planned) <= set(self.ended_cells()):
            return "finished", ""
        if status.get("stopped"):
            return "stopped", "Completed results are kept; Resume repeats the training that was interrupted."
        text, code = log_tail(self), status.get("code")
        said = last_sentence(self)
        if (isinstance(code, int) and code > 0 and said != _INTERRUPTED) or _LAST_WORDS.search(text):
            return "failed", said or f"The process ended with exit code {code} and printed no message."
        if isinstance(code, int) and code < 0:
            return "failed", f"The process was ended by signal {-code}; Resume continues with the completed results."
        if status.get("failed"):
            return "failed", str(status["failed"])
        return "stopped", "The process ended early. Completed results are kept; press Resume to continue."

    def now(self) -> Now | None:
        """Return the current step of its process; None if it is not running."""
        if not self.is_run_by_an_app():
            return Now("Running in a shell") if self.working else None
        for line in reversed(log_tail(self).splitlines()):
            if found := _NOW.fullmatch(line.strip()):
                seeds = len({name.rpartition("seed")[2] for name in self.planned()}) > 1
                words = f"{cell_words(found[1], seeds=seeds)}: {_PHASES.get(found[2], found[2])}"
                return Now(words, int(found[3] or 0), int(found[4] or 0))
            if line.startswith("Loading"):
                break
        return Now("Loading the model and the data")

    def seconds_left(self) -> float | None:
        """Estimate the remaining seconds from the cells done since the process began; None before the first.

        The running cell counts as a whole cell minus its elapsed time, but as at least a tenth of a cell.
        """
        began = self.status().get("started")
        if not self.is_run_by_an_app() or not isinstance(began, int | float):
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
"""The end of the log of a process that refuses its settings or crashes."""
